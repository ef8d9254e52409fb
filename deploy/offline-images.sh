#!/usr/bin/env bash
# Makes stand-ins for the base images that deploy/Dockerfile and compose.yaml name, from
# Debian packages and the local Rust toolchain.
#
# For machines that reach a Debian mirror but no container registry. Not for production:
# a stand-in behaves like the image it is named after only as far as this project needs.
#
#   deploy/offline-images.sh [debian] [rust] [postgres] [redis] [haproxy] [kafka]
#                                                           default: all of them
#
# Needs root, a running docker, debootstrap; for `rust` a toolchain and a filled cargo
# registry: run `cargo fetch --locked` first, and again after Cargo.lock has changed; for
# `kafka` its jars: run `cargo xtask services install`, or name their folder in KAFKA_JARS.
# DEBIAN_MIRROR names another mirror.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly suite=bookworm
readonly known=(debian rust postgres redis haproxy kafka)

fail() {
    echo "offline-images: $*" >&2
    exit 1
}

# The tags, as the files that use them name them.
tag() {
    sed --quiet --regexp-extended "s#^(FROM| *image:) (([a-z]+/)?$1:[a-z0-9.-]+).*#\2#p" \
        deploy/Dockerfile compose.yaml | head -n 1
}

# import FOLDER TAG [CHANGE...]: makes an image of a folder.
import() {
    local folder=$1 name=$2
    shift 2
    local changes=()
    for change in "$@"; do
        changes+=(--change "$change")
    done
    tar -C "$folder" --create --one-file-system . \
        | docker import "${changes[@]}" - "$name" >/dev/null
    echo "made $name"
}

# copy_base FOLDER: a copy of the base system, to add to.
copy_base() {
    cp --archive --reflink=auto "$base" "$1"
}

# install FOLDER PACKAGE...: installs packages into a base system without starting anything.
install() {
    local folder=$1
    shift
    printf '#!/bin/sh\nexit 101\n' >"$folder/usr/sbin/policy-rc.d"
    chmod +x "$folder/usr/sbin/policy-rc.d"
    # Setting up Java needs /proc; the mount ends with its namespace.
    # shellcheck disable=SC2016
    unshare --mount sh -euc 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$folder" \
        env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 sh -euc '
        apt-get update --quiet
        apt-get install --quiet --yes --no-install-recommends "$@"
        apt-get clean
        rm -rf /var/lib/apt/lists/*
    ' sh "$@" >"$folder.log" 2>&1 || {
        cat "$folder.log" >&2
        fail "cannot install $*"
    }
    rm "$folder/usr/sbin/policy-rc.d"
}

make_debian() {
    import "$base" "$(tag debian)" 'CMD ["bash"]'
}

make_rust() {
    local sysroot registry folder=$work/rust
    sysroot=$(rustc --print sysroot)
    registry=${CARGO_HOME:-$HOME/.cargo}/registry
    [ -d "$registry/cache" ] || fail "$registry is empty; run cargo fetch --locked"
    copy_base "$folder"
    install "$folder" gcc g++ libc6-dev make
    # Compiler and cargo without rustup, documentation and editor support.
    mkdir -p "$folder/usr/local/cargo/registry"
    cp --archive "$sysroot/bin" "$sysroot/lib" "$folder/usr/local/"
    if [ -d "$sysroot/libexec" ]; then
        cp --archive "$sysroot/libexec" "$folder/usr/local/"
    fi
    cp --archive "$registry/cache" "$registry/index" "$folder/usr/local/cargo/registry/"
    chown -R root:root "$folder/usr/local"
    # The packages are inside, and this machine may have no way to the package registry.
    import "$folder" "$(tag rust)" 'ENV CARGO_HOME=/usr/local/cargo' \
        'ENV CARGO_NET_OFFLINE=true' 'CMD ["bash"]'
}

make_postgres() {
    local folder=$work/postgres tag version
    tag=$(tag postgres)
    version=${tag#postgres:}
    version=${version%%-*}
    copy_base "$folder"
    mkdir -p "$folder/etc/postgresql-common"
    echo 'create_main_cluster = false' >"$folder/etc/postgresql-common/createcluster.conf"
    install "$folder" "postgresql-$version"
    cat >"$folder/usr/local/bin/docker-entrypoint.sh" <<'ENTRYPOINT'
#!/bin/sh
# Creates the cluster, the user and the database on the first start, then runs the command.
set -eu
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /var/run/postgresql
    chown -R postgres:postgres "$PGDATA" /var/run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?has to be set}"
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    umask 077
    password=$(mktemp)
    printf '%s\n' "$POSTGRES_PASSWORD" >"$password"
    initdb --username="$user" --pwfile="$password" \
        --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    rm "$password"
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
    # Reachable from inside only, so that nobody connects before the database exists.
    pg_ctl --wait --options="-c listen_addresses=''" start
    [ "$database" = postgres ] || createdb --username="$user" "$database"
    pg_ctl --wait --mode=fast stop
fi
exec "$@"
ENTRYPOINT
    chmod 755 "$folder/usr/local/bin/docker-entrypoint.sh"
    import "$folder" "$tag" \
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/$version/bin" \
        'ENV PGDATA=/var/lib/postgresql/data' 'ENV LANG=C.UTF-8' \
        'VOLUME /var/lib/postgresql/data' 'EXPOSE 5432' \
        'ENTRYPOINT ["docker-entrypoint.sh"]' 'CMD ["postgres"]'
}

make_redis() {
    local folder=$work/redis
    copy_base "$folder"
    install "$folder" redis-server
    import "$folder" "$(tag redis)" 'USER redis' 'WORKDIR /data' 'EXPOSE 6379' \
        'CMD ["redis-server"]'
}

make_haproxy() {
    local folder=$work/haproxy
    copy_base "$folder"
    install "$folder" haproxy
    mkdir -p "$folder/usr/local/etc/haproxy"
    import "$folder" "$(tag haproxy)" 'USER haproxy' \
        'CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]'
}

make_kafka() {
    local folder=$work/kafka tag jars=${KAFKA_JARS:-target/kafka/libs}
    tag=$(tag kafka)
    [ -f "$jars/kafka-server-${tag#*:}.jar" ] \
        || fail "$jars does not hold Kafka ${tag#*:}; run cargo xtask services install"
    copy_base "$folder"
    install "$folder" openjdk-17-jre-headless
    mkdir -p "$folder/opt/kafka" "$folder/var/lib/kafka/data"
    cp --archive --dereference "$jars" "$folder/opt/kafka/libs"
    chown -R root:root "$folder/opt/kafka"
    chown 1000:1000 "$folder/var/lib/kafka/data"
    cat >"$folder/usr/local/bin/kafka-run" <<'ENTRYPOINT'
#!/bin/bash
# Makes properties of the variables KAFKA_*, formats the storage once and runs the broker.
set -euo pipefail
config=$(mktemp)
for variable in "${!KAFKA_@}"; do
    name=${variable#KAFKA_}
    name=${name,,}
    [ "$name" = heap_opts ] || echo "${name//_/.}=${!variable}"
done >"$config"
# The variable holds several options.
# shellcheck disable=SC2206
java=(java ${KAFKA_HEAP_OPTS:-} -cp '/opt/kafka/libs/*')
"${java[@]}" kafka.tools.StorageTool format --ignore-formatted \
    --cluster-id "${CLUSTER_ID:-5L6g3nShT-eMCtK--X86sw}" --config "$config" >/dev/null
exec "${java[@]}" kafka.Kafka "$config"
ENTRYPOINT
    chmod 755 "$folder/usr/local/bin/kafka-run"
    import "$folder" "$tag" 'USER 1000:1000' 'VOLUME /var/lib/kafka/data' 'EXPOSE 9092' \
        'CMD ["kafka-run"]'
}

[ "$(id -u)" = 0 ] || fail "needs root, for debootstrap"
command -v debootstrap >/dev/null || fail "needs the package debootstrap"
docker version >/dev/null 2>&1 || fail "needs a running docker"
images=("$@")
[ $# -gt 0 ] || images=("${known[@]}")
for image in "${images[@]}"; do
    [[ " ${known[*]} " == *" $image "* ]] || fail "no stand-in is known for $image"
    [ -n "$(tag "$image")" ] || fail "no file names an image of $image"
done

mkdir -p target
work=$(mktemp --directory "$PWD/target/offline-images.XXXXXX")
trap 'rm -rf "$work"' EXIT
base=$work/base
debootstrap --variant=minbase --include=ca-certificates "$suite" "$base" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} \
    >"$work/debootstrap.log" 2>&1 || {
    tail -n 20 "$work/debootstrap.log" >&2
    fail "debootstrap failed"
}
rm -rf "$base"/var/cache/apt/archives/*.deb "$base"/var/lib/apt/lists/*

for image in "${images[@]}"; do
    "make_$image"
done
