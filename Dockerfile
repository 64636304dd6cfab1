# The command and nothing else, for "COPY --from" and for init containers. It takes the
# binary of scripts/build-binaries.sh, so that the image has the same as the release:
#
#	make image VERSION=v0.1.0
FROM scratch
ARG BINARY
COPY ca-certificates.crt /etc/ssl/certs/
COPY ${BINARY} /bootlock
USER 65532:65532
ENTRYPOINT ["/bootlock"]
