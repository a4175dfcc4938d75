//! Which images are known as databases, queues, proxies and tools: several copies of such a
//! process behind one port make no sense, or have another place here.

const STORES: [(&[&str], &str); 3] = [
    (
        &[
            "postgres",
            "postgresql",
            "postgis",
            "timescaledb",
            "pgvector",
            "mysql",
            "mariadb",
            "percona",
            "mongo",
            "mongodb",
            "redis",
            "redis-stack",
            "redis-stack-server",
            "valkey",
            "keydb",
            "memcached",
            "rabbitmq",
            "elasticsearch",
            "opensearch",
            "kafka",
            "cp-kafka",
            "zookeeper",
            "cp-zookeeper",
            "redpanda",
            "minio",
            "nats",
            "influxdb",
            "cassandra",
            "scylla",
            "clickhouse",
            "clickhouse-server",
            "couchdb",
            "neo4j",
            "etcd",
            "cockroach",
            "mssql",
            "server",
            "qdrant",
            "weaviate",
            "meilisearch",
            "typesense",
            "localstack",
        ],
        "a database or a queue",
    ),
    (
        &[
            "nginx",
            "traefik",
            "caddy",
            "haproxy",
            "envoy",
            "httpd",
            "nginx-proxy",
            "oauth2-proxy",
            "cloudflared",
        ],
        "a proxy or a server of files",
    ),
    (
        &[
            "prometheus",
            "grafana",
            "loki",
            "jaeger",
            "all-in-one",
            "adminer",
            "pgadmin4",
            "phpmyadmin",
            "mailhog",
            "mailpit",
            "maildev",
            "mongo-express",
            "redis-commander",
            "watchtower",
            "portainer",
        ],
        "a tool",
    ),
];

/// What an image is known as, if it is no app.
pub(super) fn store(image: &str) -> Option<&'static str> {
    let path = image.split('@').next().unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    let name = last.split(':').next().unwrap_or_default();
    // Microsoft's SQL Server is mcr.microsoft.com/mssql/server.
    if name == "server" && !path.contains("mssql") {
        return None;
    }
    let mut all = STORES.iter();
    let (_, what) = all.find(|(names, _)| names.contains(&name))?;
    Some(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_known_by_the_name_of_their_image() {
        for (image, known) in [
            ("postgres:16-alpine", true),
            ("docker.io/bitnami/redis@sha256:00", true),
            ("localhost:5000/library/mysql", true),
            ("mcr.microsoft.com/mssql/server:2022", true),
            ("ghcr.io/acme/server:1", false),
            ("acme/postgres-exporter-api", false),
            ("node:20", false),
        ] {
            assert_eq!(store(image).is_some(), known, "{image}");
        }
    }
}
