"""What operators watch: a Grafana dashboard and Prometheus alerts, made from the metrics."""
