"use strict";
// In the head: the chosen theme holds before anything is drawn.
try {
  const chosen = localStorage.getItem("netweight-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* a browser that keeps nothing for files: the system's theme it is */ }
document.documentElement.classList.add("script");
