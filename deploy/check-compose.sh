#!/usr/bin/env bash
# Checks the deployment of compose.yaml for real: builds it, starts it, sends an order
# through it, watches it over the WebSocket and stops it again.
#
#   deploy/check-compose.sh [--no-build]
#
# Needs a running docker, Compose 1.29 or 2, curl and Python 3, and the ports of
# compose.yaml. Uses a project of its own and removes its containers and data at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly project=order-system-check
readonly services=(order-postgres order-service api-gateway)
# Pulling, creating the database and the start periods of three containers.
readonly healthy_within_s=120
# An order takes milliseconds; a busy machine, a lease and a retry take longer.
readonly processed_within_s=60
# The grace period of every container.
readonly stopped_within_s=15

if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
else
    compose=(docker-compose)
fi
compose+=(--project-name "$project")

passed() {
    printf 'ok    %5s s  %s\n' "$SECONDS" "$*"
}

fail() {
    printf 'FAIL  %5s s  %s\n' "$SECONDS" "$*" >&2
    "${compose[@]}" ps >&2 || true
    "${compose[@]}" logs --no-color --tail=40 >&2 || true
    exit 1
}

cleanup() {
    "${compose[@]}" down --volumes --timeout 1 >/dev/null 2>&1 || true
}

up() {
    local output
    output=$("${compose[@]}" up --detach --no-build 2>&1) \
        || fail "the containers do not start: $output"
}

health() {
    docker inspect --format '{{.State.Health.Status}}' "$1" 2>/dev/null || echo missing
}

wait_until_healthy() {
    local service deadline=$((SECONDS + healthy_within_s))
    for service in "${services[@]}"; do
        until [ "$(health "$service")" = healthy ]; do
            [ "$SECONDS" -lt "$deadline" ] || fail "$service is $(health "$service")"
            sleep 0.5
        done
    done
}

# field NAME: the text of a field of the JSON object on standard input.
field() {
    python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

trap cleanup EXIT
cleanup

if [ "${1:-}" != --no-build ]; then
    "${compose[@]}" build || fail "the images do not build"
    passed "the images are built"
fi

up
wait_until_healthy
passed "${services[*]} are healthy"

for service in order-service api-gateway; do
    user=$(docker inspect --format '{{.Config.User}}' "$service")
    [ "$user" = 65532:65532 ] || fail "$service runs as ${user:-root}"
    [ "$(docker inspect --format '{{.HostConfig.ReadonlyRootfs}}' "$service")" = true ] \
        || fail "$service can write to its image"
done
passed "the services run without root and cannot write to their images"

answer=$(curl --silent --show-error --fail-with-body --max-time 10 \
    --header 'Content-Type: application/json' \
    --data '{"user_id":"user-1","amount":100}' \
    http://127.0.0.1:8080/orders) || fail "an order is refused: $answer"
order=$(field order_id <<<"$answer")
passed "an order is accepted: $order"

deadline=$((SECONDS + processed_within_s))
until status=$(curl --silent --max-time 5 "http://127.0.0.1:8080/orders/$order" | field status) \
    && [ "$status" = PROCESSED ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "the order is ${status:-unknown}"
    sleep 0.2
done
passed "the order is PROCESSED"

event=$(python3 examples/watch.py "$order") || fail "the WebSocket: $event"
[ "$(field order_id <<<"$event")" = "$order" ] && [ "$(field status <<<"$event")" = PROCESSED ] \
    || fail "the WebSocket sent $event"
passed "the WebSocket sends $event"

began=$SECONDS
"${compose[@]}" stop >/dev/null 2>&1 || fail "the containers do not stop"
took=$((SECONDS - began))
[ "$took" -le "$stopped_within_s" ] || fail "stopping took $took s"
for service in "${services[@]}"; do
    code=$(docker inspect --format '{{.State.ExitCode}}' "$service")
    [ "$code" = 0 ] || fail "$service ended with $code"
done
passed "all containers ended by themselves within $took s"

up
wait_until_healthy
status=$(curl --silent --max-time 5 "http://127.0.0.1:8080/orders/$order" | field status) || true
[ "$status" = PROCESSED ] || fail "after a restart the order is ${status:-gone}"
passed "the order is still there after a restart"

began=$SECONDS
"${compose[@]}" down --volumes >/dev/null 2>&1 || fail "down fails"
took=$((SECONDS - began))
[ "$took" -le "$stopped_within_s" ] || fail "down took $took s"
passed "down took $took s"
