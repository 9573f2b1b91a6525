"""What watches a server in production: Prometheus's alert rules and a Grafana dashboard over the metrics of both hosts.

Not here: metrics, which servers count (`paceline.wire`), and anything that runs beside Prometheus.
"""
