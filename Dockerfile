# A static binary in an empty image: docker build --build-arg VERSION=$(git describe --tags --always) .
FROM golang:1.26 AS build
WORKDIR /src
# The modules are a layer of their own, rebuilt only when they change.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=${VERSION}" -o /tallymq ./cmd/tallymq

FROM scratch
# What callees over TLS are checked against.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /tallymq /tallymq
USER 65532:65532
EXPOSE 3010
ENTRYPOINT ["/tallymq"]
CMD ["serve"]
