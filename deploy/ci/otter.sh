#!/bin/sh
# Takes a machine of otter for a CI job. Needs only curl 7.76 or newer and jq. If `otter run` is
# available, use it instead.
#
#   otter.sh run COMMAND…  takes a machine, runs the command, gives the machine back, and exits with
#                          the status of the command. Write `exec otter.sh run` as the last line of
#                          a script, so that the signals for the script reach it. If it is killed,
#                          otter releases the machine when the lease expires
#   otter.sh take          takes a machine, and prints the variables that `run` exports, one line
#                          NAME=value for each
#   otter.sh give-back     gives back the machine that this token took with this OTTER_KEY, even if
#                          `take` was interrupted. Fails if the token took no machine with the key
#   otter.sh artifacts DIR stores what otter recorded and what the test stored in a directory, and
#                          prints the address where people find it. Call it after give-back
#
# Environment variables:
#   OTTER_URL        the address of otter
#   OTTER_TOKEN      a token with the role runner, if otter has tokens
#   OTTER_SELECT     the selection of the machine, as in POST /v1/leases: {"pool": "qubes"}
#   OTTER_PREPARE    the preparation of the machine: {"snapshot": "kickstart", "power": "on"}. The
#                    default is the preparation of the pool
#   OTTER_RECORD     what otter records: {"screen": true, "serial": ["*"]}. The default is what the
#                    pool sets
#   OTTER_ARTIFACTS  a directory in which `run` stores what otter recorded, at the end
#   OTTER_TTL        the duration of the lease: 600, 600s, 10m or 1h30m; 10m by default. Only `run`
#                    renews the lease
#   OTTER_QUEUE_FOR  the longest wait for a machine, or for a limit of the token; 30m by default
#   OTTER_KEY        identifies the lease: the same key takes the same machine. The default of `run`
#                    is a random key
#   OTTER_REFERENCE  a text stored with the lease, such as the address of the job
#   CURL_CA_BUNDLE   the file of the authority of otter's certificate, or of the certificate itself
#
# If no machine was taken, it exits with a code of `otter run`: 64, 69, 73, 74, 75, 76 or 77
# (`otter run --help`).
set -eu

url=${OTTER_URL:-} select=${OTTER_SELECT:-} key=${OTTER_KEY:-}
lease='' credential='' answer='' starting='' command='' renewer='' asked='' holder='' me=''
# The longest time in seconds for retries while otter sends Retry-After.
retry_limit=60
# A jq filter: the name of a machine may contain a line break, which would set another variable.
one_line='gsub("[[:cntrl:]]"; "\uFFFD")'

main() {
  verb=${1:-}
  [ $# = 0 ] || shift
  case $verb in
    run | take | give-back | artifacts) ;;
    *) fail 64 'otter.sh run COMMAND…, otter.sh take, otter.sh give-back or otter.sh artifacts DIR' ;;
  esac
  read_variables
  case $verb in
    run) [ -n "$key" ] || key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n') && run "$@" ;;
    take) holder="otter.sh $key" && take && wait_until_active && print_variables ;;
    give-back) holder="otter.sh $key" && find_and_give_back ;;
    artifacts) holder="otter.sh $key" && find_lease && fetch_artifacts "${1:-}" ;;
  esac
}

read_variables() {
  for tool in curl jq; do
    command -v "$tool" >/dev/null || fail 127 "$tool is not found, and otter.sh needs it"
  done
  [ -n "$url" ] ||
    fail 64 'OTTER_URL is not set: write the address of otter, such as https://otter.lab:8080'
  [ -n "$select" ] ||
    fail 64 "OTTER_SELECT is not set: write a selection, such as '{\"pool\": \"qubes\"}'"
  [ "$verb" = run ] || [ -n "$key" ] ||
    fail 64 'OTTER_KEY is not set: write a name that only this job has, for take and give-back'
  ttl=$(seconds OTTER_TTL "${OTTER_TTL:-10m}") || exit 64
  queue_for=$(seconds OTTER_QUEUE_FOR "${OTTER_QUEUE_FOR:-30m}") || exit 64
  [ "$queue_for" -le "$retry_limit" ] || retry_limit=$queue_for
}

# Converts the duration in a variable to seconds. It accepts the same forms as otter.
seconds() {
  jq -ern --arg time "$2" '$time
    | if test("^[0-9]{1,9}$") then tonumber
      elif test("^([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$") then
        [scan("([0-9]+)([dhms])") | (.[0] | tonumber) * {d: 86400, h: 3600, m: 60, s: 1}[.[1]]]
        | add
      else empty end' ||
    fail 64 "$1 is \"$2\", which is not a time: write seconds, such as 600, or 90s, 10m or 1h30m"
}

run() {
  [ $# -gt 0 ] || fail 64 'a command is missing'
  trap finish EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'fail 74 "the lease is lost, so the command is ended"' USR1
  trap 'fail 74 "the lease was not renewed in time, so the command is ended"' USR2
  asked=yes
  take
  wait_until_active
  variables=$(print_variables)
  while IFS= read -r line; do export "${line?}"; done <<EOF
$variables
EOF
  starting=renewer
  renew_until_lost >/dev/null 2>&1 &
  renewer=$! starting=''
  # setsid makes a process group, so that the children of the command end with it. The shell
  # redirects the standard input of background commands, so the command gets its copy 3.
  exec 3<&0
  starting=command
  setsid "$@" <&3 3<&- &
  command=$! starting=''
  status=0
  wait "$command" || status=$?
  command=''
  exit "$status"
}

# A repetition with the same key returns the same lease, so that a lost answer leaks no machine.
take() {
  body=$(jq -cn --argjson select "$select" --argjson prepare "${OTTER_PREPARE:-null}" \
    --argjson record "${OTTER_RECORD:-null}" \
    --arg ttl "$ttl" --arg queue "$queue_for" --arg holder "$holder" \
    '{select: $select, ttl: $ttl, queue_for: $queue}
      + if $prepare then {prepare: $prepare} else {} end
      + if $record then {record: $record} else {} end
      + if $holder != "" then {holder: $holder} else {} end') ||
    fail 64 'OTTER_SELECT, OTTER_PREPARE or OTTER_RECORD is not JSON'
  call_with_retries POST /leases -H "Idempotency-Key: otter.sh/$key" \
    -H 'Content-Type: application/json' -d "$body" ||
    { asked=''; fail_with_answer; }
  lease=$(field '.id // ""')
  asked=''
  [ -n "$lease" ] || fail 69 "the server at $url is not otter"
  credential=$lease.$(field .secret)
}

wait_until_active() {
  until call_with_retries GET "/leases/$lease/wait?wait=30s"; do
    [ "$(field .code)" = wait-timeout ] || fail_with_answer
  done
  renewed=$(date +%s)
}

print_variables() {
  machine=$(field ".machine | $one_line") name=$(field ".machine_name | $one_line")
  call_with_retries GET "/machines/$(printf %s "$machine" | jq -Rrs @uri)" || fail_with_answer
  printf '%s\n' "OTTER_LEASE=$credential" "OTTER_MACHINE_ID=$machine" "OTTER_MACHINE_NAME=$name" \
    "OTTER_MACHINE_IP=$(field ".ip_address // \"\" | $one_line")"
}

# Renews the lease three times in its duration, so that two renewals may fail. The lease is lost if
# otter reports its end, or if it has expired.
renew_until_lost() {
  trap 'kill "$nap" 2>/dev/null; exit' TERM
  trap - EXIT
  pause=$(((ttl + 2) / 3))
  while :; do
    sleep "$pause" >/dev/null 2>&1 &
    nap=$!
    wait "$nap"
    # If the script is gone, the lease must expire, so that the machine is released.
    kill -0 $$ || exit
    pause=$(((ttl + 2) / 3)) now=$(date +%s)
    limit=$((renewed + ttl - now))
    [ "$limit" -gt 0 ] || limit=1
    [ "$limit" -le 60 ] || limit=60
    if answer=$(call POST "/leases/$lease/renew" --max-time "$limit" \
      -H 'Content-Type: application/json' -d '{}'); then
      renewed=$now
      continue
    fi
    case $(field .status) in 404 | 423) kill -USR1 $$ && exit ;; esac
    left=$((renewed + ttl - $(date +%s)))
    [ "$left" -gt 0 ] || { kill -USR2 $$ && exit; }
    # A temporary refusal: try again when otter asks, but early enough for another attempt.
    requested=$(retry_after)
    if [ -n "$requested" ]; then
      pause=$(((ttl + 5) / 6))
      [ "$requested" -ge "$pause" ] || pause=$requested
    fi
    [ "$pause" -le "$left" ] || pause=$left
  done
}

# Finds the lease by its holder, which contains the key, and by the token that created it, because
# other clients can use the same holder. Then `take` with the same key returns the secret of the
# lease.
find_and_give_back() {
  call_with_retries GET /about || fail_with_answer
  me=$(field '.caller.name // ""')
  [ -n "$me" ] ||
    fail 69 'otter does not report the name of the token: it is older than this script'
  named="limit=1000&holder=$(printf %s "$holder" | jq -Rrs @uri)"
  call_with_retries GET "/leases?state=queued,preparing,active,releasing&$named" || fail_with_answer
  ours=$(field '[.items[] | select(.requested_by == $me) | .id] | join(" ")')
  if [ -z "$ours" ]; then
    call_with_retries GET "/leases?$named" || fail_with_answer
    [ -z "$(field '[.items[] | select(.requested_by == $me)][0].id // ""')" ] || return 0
    other=$(field '.items[0] | if . then
      "the lease \(.id) was taken by \(.requested_by), and this token is \($me)" else "" end')
    other=${other:+: $other}
    fail 64 "nothing was taken with the key $key, so there is nothing to give back$other"
  fi
  take
  give_back
  case " $ours " in
    *" $lease "*) ;;
    *) fail 74 "otter has forgotten the key $key: the lease $ours ends when it expires" ;;
  esac
}

# Finds the newest lease of this token with the key, whatever its state is.
find_lease() {
  call_with_retries GET /about || fail_with_answer
  me=$(field '.caller.name // ""')
  named="limit=1000&holder=$(printf %s "$holder" | jq -Rrs @uri)"
  call_with_retries GET "/leases?$named" || fail_with_answer
  lease=$(field '[.items[] | select(.requested_by == $me) | .id][0] // ""')
  [ -n "$lease" ] ||
    fail 64 "nothing was taken with the key $key, so there are no artifacts"
}

# Stores the artifacts of the lease in a directory, once otter has made them.
fetch_artifacts() {
  directory=$1
  [ -n "$directory" ] || fail 64 'otter.sh artifacts needs a directory'
  wait_for_recording
  call_with_retries GET "/artifacts?lease=$lease&limit=1000" || fail_with_answer
  files=$(field '.items[] | "\(.id) \(.name)"')
  mkdir -p "$directory"
  lost=''
  while read -r id name; do
    # The name decides where the file is written, so it is not trusted.
    case $name in '' | .* | *[!A-Za-z0-9._-]*) continue ;; esac
    download "/artifacts/$id/content" "$directory/$name" || lost="$lost $name"
  done <<EOF
$files
EOF
  printf 'artifacts: %s\n' "$url/v1/artifacts?lease=$lease"
  [ -z "$lost" ] || fail 69 "these artifacts could not be stored:$lost"
}

# A lease that is still active was kept, and its recording goes on.
wait_for_recording() {
  give_up=$(($(date +%s) + 300))
  while :; do
    call_with_retries GET "/leases/$lease" || fail_with_answer
    case $(field .state) in
      active) return ;;
      releasing) ;;
      *) [ "$(field '.recording | type')" = object ] || return 0 ;;
    esac
    [ "$(date +%s)" -lt "$give_up" ] ||
      fail 75 'otter has not finished the recording in time; its artifacts come later'
    sleep 1
  done
}

give_back() {
  call_with_retries DELETE "/leases/$lease" || fail_with_answer
}

finish() {
  status=$?
  trap - EXIT
  trap '' HUP INT TERM USR1 USR2
  # A process may have been started although its id is not yet in its variable.
  case $starting in renewer) renewer=${!:-} ;; command) command=$! ;; esac
  [ -z "$renewer" ] || kill "$renewer" 2>/dev/null || :
  if [ -n "$command" ]; then
    kill -TERM "-$command" 2>/dev/null || kill -TERM "$command" 2>/dev/null || :
    { sleep 10; kill -KILL "-$command"; } >/dev/null 2>&1 &
    killer=$!
    wait "$command" 2>/dev/null || :
    # The killer ignores every other signal, as this shell does now.
    kill -KILL "$killer" 2>/dev/null || :
    kill -KILL "-$command" 2>/dev/null || :
  fi
  # If the request was interrupted before its answer, a repetition finds the lease to give back.
  if [ -n "$asked" ]; then (retry_limit=10 && take && retry_limit=60 && give_back) || :; fi
  if [ -n "$lease" ]; then (give_back) || :; fi
  if [ -n "$lease" ] && [ -n "${OTTER_ARTIFACTS:-}" ]; then
    (fetch_artifacts "$OTTER_ARTIFACTS" >&2) || :
  fi
  exit "$status"
}

# Makes a call, up to eight times if no answer comes or if a later attempt may succeed. If otter
# sends Retry-After, it retries at those times for $retry_limit seconds. The answer is in $answer.
call_with_retries() {
  tries=0 waited=0
  while :; do
    code=0
    answer=$(call "$@") || code=$?
    [ $code != 0 ] || return 0
    if [ $code = 22 ]; then
      [ "$(field .code)" != wait-timeout ] || return 1
      case $(field .status) in 408 | 429 | 5??) ;; *) return 1 ;; esac
    fi
    # A retry does not help with a wrong address, an untrusted certificate or an unreadable
    # CURL_CA_BUNDLE.
    case $code in 1 | 3 | 60 | 77) return 1 ;; esac
    pause=$(retry_after)
    if [ -n "$pause" ]; then
      waited=$((waited + pause))
      [ "$waited" -lt "$retry_limit" ] || return 1
    else
      pause=1 tries=$((tries + 1))
      [ $tries -lt 8 ] || return 1
    fi
    # A signal interrupts `wait`, but not `sleep`.
    sleep "$pause" >/dev/null 2>&1 &
    wait $!
  done
}

# Calls otter: a method, a path, and more arguments for curl. Secrets go through the standard input
# of curl, so that no list of processes shows them.
call() {
  method=$1 path=$2
  shift 2
  headers | curl -si --fail-with-body --connect-timeout 10 --max-time 60 -K - \
    -X "$method" "$@" "$url/v1$path"
}

# Stores the bytes at a path in a file. A file that is cut does not get its name.
download() {
  if headers | curl -sf --connect-timeout 10 --max-time 600 -K - -o "$2.part" "$url/v1$1"; then
    mv "$2.part" "$2"
  else
    rm -f "$2.part"
    return 1
  fi
}

headers() {
  [ -z "${OTTER_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$OTTER_TOKEN"
  [ -z "$credential" ] || printf 'header = "Otter-Lease: %s"\n' "$credential"
  [ -z "${OTTER_REFERENCE:-}" ] || printf 'header = "Otter-Reference: %s"\n' "$OTTER_REFERENCE"
}

# Applies a jq filter to the body, which is one line of JSON after the headers. Prints nothing if
# the answer has no such line.
field() {
  printf '%s\n' "$answer" | sed -n '/^{/p' |
    jq -rs --arg me "$me" "last // empty | $1" 2>/dev/null || :
}

# The seconds in the header Retry-After. Prints nothing if the header is missing.
retry_after() {
  printf '%s\n' "$answer" |
    sed -n 's/^[Rr]etry-[Aa]fter: *0*\([1-9][0-9]\{0,8\}\).*/\1/p' | tail -n 1
}

http_status() { printf '%s\n' "$answer" | sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p' | tail -n 1; }

fail_with_answer() {
  why=$(field 'select(.code) | "\(.code): \(.detail)"')
  case $(field .status) in
    401 | 403) status=77 ;;
    409)
      case $why in
        no-free-machine*)
          status=75
          [ "$(field '.errors[0].code // ""')" != matches-none ] || status=76
          ;;
        *prepare-failed* | *machine-gone*) status=73 ;;
        *) status=74 ;;
      esac
      ;;
    429) status=75 ;;
    503) if [ -n "$(retry_after)" ]; then status=75; else status=69; fi ;;
    404) if [ -n "$lease" ]; then status=74; else status=64; fi ;;
    423) status=74 ;;
    4??) status=64 ;;
    *) status=69 ;;
  esac
  fail "$status" "${why:-$(no_answer)}"
}

# Describes why otter did not answer, with advice.
no_answer() {
  case $code in
    1 | 3)
      echo "OTTER_URL is \"$url\", which is not a URL: write one such as https://otter.lab:8080"
      ;;
    22) echo "the server at $url is not otter, or serves only https (HTTP status $(http_status))" ;;
    60)
      echo "the certificate of $url is not trusted (curl exits with 60): name the file of its" \
        "authority in CURL_CA_BUNDLE"
      ;;
    77) echo "the file in CURL_CA_BUNDLE cannot be read (curl exits with 77)" ;;
    *) echo "otter does not answer at $url (curl exits with $code)" ;;
  esac
}

fail() {
  printf 'otter.sh: %s\n' "$2" >&2
  exit "$1"
}

main "$@"
