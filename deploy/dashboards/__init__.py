"""Dashboards written as code: the same panels as Grafana's JSON and as console pages of Prometheus itself."""
