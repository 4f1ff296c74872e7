# What programs find in the Docker sandbox: Python with pip, bash, coreutils and make. Needs no context:
#
#     docker build -t psf/pybash - < executors/images/pybash.Dockerfile
#
# psf runs programs as user 1000 with /work as their directory and everything else read-only, and shows its own /etc/passwd.
# Whatever else programs shall find is installed here.
FROM debian:bookworm-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates coreutils findutils grep make procps python3 python3-pip sed \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* \
    && ln -s /usr/bin/python3 /usr/local/bin/python3
