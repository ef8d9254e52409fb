#!/usr/bin/env bash
# Checks the deployment of compose.yaml for real: builds it, starts it, sends an order
# through it, watches it over the WebSocket and stops it again. With the profile `scale`
# also kills processes under load and restarts the gateways one by one.
#
#   deploy/check-compose.sh [--profile redis|kafka|scale] [--no-build]
#
# Needs a running docker, Compose 1.29 or 2, curl and Python 3, and the ports of
# compose.yaml. Uses a project of its own and removes its containers and data at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly project=order-system-check
readonly api=http://127.0.0.1:8080
# Pulling, creating the database and the start periods of one container after another.
readonly healthy_within_s=180
# An order takes milliseconds; a busy machine, a lease and a retry take longer.
readonly processed_within_s=60
# Orders that are sent while processes are killed, by so many clients.
readonly orders=200
readonly clients=4

fail() {
    printf 'FAIL  %5s s  %s\n' "$SECONDS" "$*" >&2
    "${compose[@]}" ps >&2 || true
    "${compose[@]}" logs --no-color --tail=40 >&2 || true
    exit 1
}

passed() {
    printf 'ok    %5s s  %s\n' "$SECONDS" "$*"
}

usage() {
    echo "usage: $0 [--profile redis|kafka|scale] [--no-build]" >&2
    exit 2
}

profile=plain
build=true
while [ $# -gt 0 ]; do
    case $1 in
        --profile) profile=${2:-} && shift ;;
        --no-build) build=false ;;
        *) usage ;;
    esac
    shift || usage
done

# The services of the profile, once for each container; ours are those with a USER of 65532.
# And the longest that stopping may take: grace periods, of one after another in `scale`.
stopped_within_s=15
case $profile in
    plain)
        ours=(order-service api-gateway)
        others=(order-postgres)
        ;;
    redis | kafka)
        ours=("order-service-$profile" "order-worker-$profile" "api-gateway-$profile")
        others=(order-postgres "$profile")
        ;;
    scale)
        ours=(order-services order-services order-services
            order-workers order-workers order-workers api-gateways api-gateways)
        others=(order-postgres redis load-balancer)
        stopped_within_s=60
        ;;
    *) usage ;;
esac

if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
else
    compose=(docker-compose)
fi
compose+=(--project-name "$project")
# Without --profile it has to be the plain deployment.
[ "$profile" = plain ] || compose+=(--profile "$profile")
unset COMPOSE_PROFILES

work=$(mktemp --directory)

remove() {
    "${compose[@]}" down --volumes --remove-orphans --timeout 1 >/dev/null 2>&1 || true
}

cleanup() {
    # Clients of a check that failed.
    jobs -p | xargs --no-run-if-empty kill 2>/dev/null || true
    remove
    rm -rf "$work"
}

up() {
    local output
    output=$("${compose[@]}" up --detach --no-build 2>&1) \
        || fail "the containers do not start: $output"
}

# containers [SERVICE]: the ids of all containers, or of one service.
containers() {
    docker ps --all --no-trunc --quiet --filter "label=com.docker.compose.project=$project" \
        ${1:+--filter "label=com.docker.compose.service=$1"}
}

# inspect FORMAT CONTAINER...
inspect() {
    docker inspect --format "$@" 2>/dev/null
}

name_of() {
    local name
    name=$(inspect '{{.Name}}' "$1")
    echo "${name#/}"
}

health() {
    inspect '{{.State.Health.Status}}' "$1" || echo missing
}

wait_until_healthy() {
    local container deadline=$((SECONDS + healthy_within_s))
    for container in "$@"; do
        until [ "$(health "$container")" = healthy ]; do
            [ "$SECONDS" -lt "$deadline" ] \
                || fail "$(name_of "$container") is $(health "$container")"
            sleep 0.5
        done
    done
}

wait_until_all_healthy() {
    local expected found
    expected=$(printf '%s\n' "${ours[@]}" "${others[@]}" | sort)
    mapfile -t all < <(containers)
    found=$(inspect '{{index .Config.Labels "com.docker.compose.service"}}' "${all[@]}" | sort)
    [ "$found" = "$expected" ] || fail "there are containers of" "${found//$'\n'/ }"
    wait_until_healthy "${all[@]}"
}

# field NAME: the text of a field of the JSON object on standard input.
field() {
    python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

# post USER [ARGUMENT...]: sends an order once and prints the answer.
post() {
    local user=$1
    shift
    curl --silent --show-error --fail-with-body --max-time 10 \
        --header 'Content-Type: application/json' "$@" \
        --data "{\"user_id\":\"$user\",\"amount\":100}" "$api/orders"
}

# post_many N USER: sends N orders; repeats one that was refused, with its key, as clients do.
post_many() {
    local i attempt
    for ((i = 0; i < $1; i++)); do
        for attempt in 1 2 3 4 5; do
            post "$2" --header "Idempotency-Key: $BASHPID-$i" >/dev/null && break
            echo "attempt $attempt failed"
            sleep 0.5
        done
        # Slow enough that the kill comes before the end.
        sleep 0.05
    done 2>&1
}

# post_until FILE USER: sends orders, each once, until the file exists; prints what fails.
post_until() {
    until [ -e "$1" ]; do
        post "$2" >/dev/null || echo "a request failed"
        echo sent >&3
    done 2>&1
}

# count USER [STATUS]: how many orders of a user there are, up to 1000.
count() {
    curl --silent --max-time 5 "$api/orders?page_size=1000&user_id=$1${2:+&status=$2}" \
        | python3 -c 'import json, sys; print(len(json.load(sys.stdin)["orders"]))'
}

kill_under_load() {
    local jobs=() i victims=()
    for ((i = 0; i < clients; i++)); do
        post_many $((orders / clients)) storm >"$work/storm.$i" &
        jobs+=($!)
    done
    until [ "$(count storm)" -ge $((orders / 10)) ]; do
        sleep 0.1
    done
    victims=("$(containers order-services | head -n 1)" "$(containers order-workers | head -n 1)")
    docker kill "${victims[@]}" >/dev/null || fail "cannot kill"
    [ "$(count storm)" -lt "$orders" ] || fail "all orders were sent before the kill"
    wait "${jobs[@]}"

    local processed=0 deadline=$((SECONDS + processed_within_s))
    until processed=$(count storm PROCESSED) && [ "$processed" = "$orders" ]; do
        [ "$SECONDS" -lt "$deadline" ] || fail "$processed of $orders orders are PROCESSED"
        sleep 0.5
    done
    [ "$(count storm)" = "$orders" ] || fail "$(count storm) orders instead of $orders"
    passed "killed $(name_of "${victims[0]}") and $(name_of "${victims[1]}") under load:" \
        "$orders orders are PROCESSED, $(cat "$work"/storm.* | grep -c attempt || true) requests repeated"
    docker start "${victims[@]}" >/dev/null || fail "cannot start"
    wait_until_healthy "${victims[@]}"
}

restart_gateways_under_load() {
    local jobs=() i gateway
    for ((i = 0; i < clients; i++)); do
        post_until "$work/enough" rolling >"$work/rolling.$i" 3>"$work/sent.$i" &
        jobs+=($!)
    done
    for gateway in $(containers api-gateways); do
        docker restart --time 20 "$gateway" >/dev/null || fail "cannot restart"
        wait_until_healthy "$gateway"
    done
    touch "$work/enough"
    wait "${jobs[@]}"
    [ -z "$(cat "$work"/rolling.*)" ] || fail "$(cat "$work"/rolling.* | head -n 5)"
    passed "restarted the gateways one by one: none of $(cat "$work"/sent.* | wc -l) requests failed"
}

# The order is followed by a connection that was there before it.
watch_a_change() {
    local watcher deadline=$((SECONDS + processed_within_s))
    python3 examples/watch.py '{"subscribe":{"user":"watched"}}' >"$work/watch" 2>&1 &
    watcher=$!
    until grep --quiet subscribed "$work/watch"; do
        [ "$SECONDS" -lt "$deadline" ] || fail "the WebSocket: $(cat "$work/watch")"
        sleep 0.1
    done
    post watched >/dev/null || fail "an order is refused"
    wait "$watcher" || fail "the WebSocket: $(cat "$work/watch")"
    passed "the WebSocket sends $(tail -n 1 "$work/watch")"
}

trap cleanup EXIT
remove

if $build; then
    "${compose[@]}" build || fail "the images do not build"
    passed "the images are built"
fi

up
wait_until_all_healthy
passed "all ${#all[@]} containers are healthy"

for service in "${ours[@]}"; do
    for container in $(containers "$service"); do
        user=$(inspect '{{.Config.User}}' "$container")
        [ "$user" = 65532:65532 ] || fail "$service runs as ${user:-root}"
        [ "$(inspect '{{.HostConfig.ReadonlyRootfs}}' "$container")" = true ] \
            || fail "$service can write to its image"
    done
done
passed "the services run without root and cannot write to their images"

answer=$(post user-1) || fail "an order is refused: $answer"
order=$(field order_id <<<"$answer")
passed "an order is accepted: $order"

deadline=$((SECONDS + processed_within_s))
until status=$(curl --silent --max-time 5 "$api/orders/$order" | field status) \
    && [ "$status" = PROCESSED ]; do
    [ "$SECONDS" -lt "$deadline" ] || fail "the order is ${status:-unknown}"
    sleep 0.2
done
passed "the order is PROCESSED"

event=$(python3 examples/watch.py "$order") || fail "the WebSocket: $event"
[ "$(field order_id <<<"$event")" = "$order" ] && [ "$(field status <<<"$event")" = PROCESSED ] \
    || fail "the WebSocket sent $event"
passed "the WebSocket sends $event"

watch_a_change
if [ "$profile" = scale ]; then
    kill_under_load
    restart_gateways_under_load
fi

began=$SECONDS
"${compose[@]}" stop >/dev/null 2>&1 || fail "the containers do not stop"
took=$((SECONDS - began))
[ "$took" -le "$stopped_within_s" ] || fail "stopping took $took s"
for container in "${all[@]}"; do
    code=$(inspect '{{.State.ExitCode}}' "$container")
    # A Java virtual machine ends with 143 after an orderly stop by SIGTERM.
    [ "$code" = 0 ] || [[ $code = 143 && $(name_of "$container") = *[-_]kafka[-_]1 ]] \
        || fail "$(name_of "$container") ended with $code"
done
passed "all containers ended by themselves within $took s"

up
wait_until_all_healthy
status=$(curl --silent --max-time 5 "$api/orders/$order" | field status) || true
[ "$status" = PROCESSED ] || fail "after a restart the order is ${status:-gone}"
passed "the order is still there after a restart"

began=$SECONDS
"${compose[@]}" down --volumes >/dev/null 2>&1 || fail "down fails"
took=$((SECONDS - began))
[ "$took" -le "$stopped_within_s" ] || fail "down took $took s"
passed "down took $took s"
