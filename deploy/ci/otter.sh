#!/bin/sh
# A machine of otter in a CI job, with curl 7.76 or newer and jq alone; `otter run` does it better where it can be had.
#
#   otter.sh run COMMAND…   takes a machine, runs the command on it, gives the machine back, exits with the command's status
#   otter.sh take           takes a machine, and prints what `run` exports, a line NAME=value each
#   otter.sh give-back      gives back what this token took with this OTTER_KEY, also if its `take` was cut off; fails, and
#                           takes nothing, if it took nothing with it
#
# The environment says the rest:
#   OTTER_URL, OTTER_TOKEN  where otter is, and the token of a runner, if there are tokens
#   OTTER_SELECT            which machine, as in POST /v1/leases: {"pool": "qubes"}
#   OTTER_PREPARE           what it is to be first: {"snapshot": "kickstart", "power": "on"}; else as the pool says
#   OTTER_TTL               how long it is held: 600, 600s, 10m or 1h30m; 10m by default. `run` renews it, after `take` nobody does
#   OTTER_QUEUE_FOR         how long to wait for one, or for a limit of the token; 30m by default
#   OTTER_KEY               names the taking: the same one takes the same machine. For `run` a random one will do
#   OTTER_REFERENCE         kept with the lease: the job's address
#   CURL_CA_BUNDLE          the file of the authority that signed otter's certificate, or of the certificate itself
#
# Exits as `otter run` does if there is no machine: 64, 69, 73, 74, 75, 76, 77 (`otter run --help`).
set -eu

url=${OTTER_URL:-} select=${OTTER_SELECT:-} key=${OTTER_KEY:-}
lease='' shown='' answer='' starting='' command='' renewer='' asked='' holder='' me=''
# How many seconds otter is tried while it says Retry-After.
patience=60
# For a filter of jq: names on a host may hold a line break, which would set another variable.
one_line='gsub("[[:cntrl:]]"; "\uFFFD")'

main() {
  verb=${1:-}
  [ $# = 0 ] || shift
  case $verb in
    run | take | give-back) ;;
    *) fail 64 'otter.sh run COMMAND…, otter.sh take or otter.sh give-back' ;;
  esac
  read_variables
  case $verb in
    run) [ -n "$key" ] || key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n') && run "$@" ;;
    take) holder="otter.sh $key" && take && wait_for_it && describe ;;
    give-back) holder="otter.sh $key" && find_and_give_back ;;
  esac
}

read_variables() {
  for tool in curl jq; do
    command -v "$tool" >/dev/null || fail 127 "$tool is not found, and otter.sh needs it"
  done
  [ -n "$url" ] || fail 64 'OTTER_URL is not set: write where otter is, such as https://otter.lab:8080'
  [ -n "$select" ] || fail 64 "OTTER_SELECT is not set: write which machine to take, such as '{\"pool\": \"qubes\"}'"
  [ "$verb" = run ] || [ -n "$key" ] ||
    fail 64 'OTTER_KEY is not set: write a name of this job, the same for take and give-back and for no other job'
  ttl=$(seconds OTTER_TTL "${OTTER_TTL:-10m}") || exit 64
  queue_for=$(seconds OTTER_QUEUE_FOR "${OTTER_QUEUE_FOR:-30m}") || exit 64
  [ "$queue_for" -le "$patience" ] || patience=$queue_for
}

# The seconds of a variable's value, which is a time as otter reads it.
seconds() {
  jq -ern --arg time "$2" '$time
    | if test("^[0-9]{1,9}$") then tonumber
      elif test("^([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?$") then
        [scan("([0-9]+)([dhms])") | (.[0] | tonumber) * {d: 86400, h: 3600, m: 60, s: 1}[.[1]]] | add
      else empty end' ||
    fail 64 "$1 is \"$2\", which is not a time: write seconds, such as 600, or a time such as 90s, 10m or 1h30m"
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
  wait_for_it
  described=$(describe)
  while IFS= read -r line; do export "${line?}"; done <<EOF
$described
EOF
  starting=renewer
  renew_on >/dev/null 2>&1 &
  renewer=$! starting=''
  # A session of its own, so that all it starts ends with it; and with the input that a shell takes from what it does not wait for.
  exec 3<&0
  starting=command
  setsid "$@" <&3 3<&- &
  command=$! starting=''
  status=0
  wait "$command" || status=$?
  command=''
  exit "$status"
}

# The answer to a repetition with the same key is the same lease, so that one that was lost leaks no machine.
take() {
  body=$(jq -cn --argjson select "$select" --argjson prepare "${OTTER_PREPARE:-null}" --arg ttl "$ttl" --arg queue "$queue_for" \
    --arg holder "$holder" '{select: $select, ttl: $ttl, queue_for: $queue}
      + if $prepare then {prepare: $prepare} else {} end + if $holder != "" then {holder: $holder} else {} end') ||
    fail 64 'OTTER_SELECT or OTTER_PREPARE is not JSON'
  insist POST /leases -H "Idempotency-Key: otter.sh/$key" -H 'Content-Type: application/json' -d "$body" ||
    { asked=''; complain; }
  lease=$(field '.id // ""')
  asked=''
  [ -n "$lease" ] || fail 69 "what answers at $url is not otter"
  shown=$lease.$(field .secret)
}

wait_for_it() {
  until insist GET "/leases/$lease/wait?wait=30s"; do
    [ "$(field .code)" = wait-timeout ] || complain
  done
  renewed=$(date +%s)
}

describe() {
  machine=$(field ".machine | $one_line") name=$(field ".machine_name | $one_line")
  insist GET "/machines/$(printf %s "$machine" | jq -Rrs @uri)" || complain
  printf '%s\n' "OTTER_LEASE=$shown" "OTTER_MACHINE_ID=$machine" "OTTER_MACHINE_NAME=$name" \
    "OTTER_MACHINE_IP=$(field ".ip_address // \"\" | $one_line")"
}

# Three times in the lease's time, so that two may be lost. The lease is over if otter says so, or if its time is.
renew_on() {
  trap 'kill "$nap" 2>/dev/null; exit' TERM
  trap - EXIT
  pause=$(((ttl + 2) / 3))
  while :; do
    sleep "$pause" >/dev/null 2>&1 &
    nap=$!
    wait "$nap"
    # Without the script, nobody gives the machine back.
    kill -0 $$ || exit
    pause=$(((ttl + 2) / 3)) now=$(date +%s)
    limit=$((renewed + ttl - now))
    [ "$limit" -gt 0 ] || limit=1
    [ "$limit" -le 60 ] || limit=60
    if answer=$(call POST "/leases/$lease/renew" --max-time "$limit" -H 'Content-Type: application/json' -d '{}'); then
      renewed=$now
      continue
    fi
    case $(field .status) in 404 | 423) kill -USR1 $$ && exit ;; esac
    left=$((renewed + ttl - $(date +%s)))
    [ "$left" -gt 0 ] || { kill -USR2 $$ && exit; }
    # Refused for now: again when otter says, but with time left for another.
    told=$(retry_after)
    if [ -n "$told" ]; then
      pause=$(((ttl + 5) / 6))
      [ "$told" -ge "$pause" ] || pause=$told
    fi
    [ "$pause" -le "$left" ] || pause=$left
  done
}

# The lease is found by its holder, which names the key, and by the token that made it: every client can choose the same
# holder. The repetition of `take` then only tells its secret.
find_and_give_back() {
  insist GET /about || complain
  me=$(field '.caller.name // ""')
  [ -n "$me" ] || fail 69 'otter does not say whose token this is: it is older than this script'
  named="limit=1000&holder=$(printf %s "$holder" | jq -Rrs @uri)"
  insist GET "/leases?state=queued,preparing,active,releasing&$named" || complain
  ours=$(field '[.items[] | select(.requested_by == $me) | .id] | join(" ")')
  if [ -z "$ours" ]; then
    insist GET "/leases?$named" || complain
    [ -z "$(field '[.items[] | select(.requested_by == $me)][0].id // ""')" ] || return 0
    other=$(field '.items[0] | if . then "the lease \(.id) was taken by \(.requested_by), and this token is \($me)" else "" end')
    fail 64 "nothing was taken with the key $key, so there is nothing to give back${other:+: $other}"
  fi
  take
  give_back
  case " $ours " in
    *" $lease "*) ;;
    *) fail 74 "otter has forgotten the key $key: the lease $ours comes back when its time is over" ;;
  esac
}

give_back() {
  insist DELETE "/leases/$lease" || complain
}

finish() {
  status=$?
  trap - EXIT
  trap '' HUP INT TERM USR1 USR2
  # What was started runs before its number is known here.
  case $starting in renewer) renewer=${!:-} ;; command) command=$! ;; esac
  [ -z "$renewer" ] || kill "$renewer" 2>/dev/null || :
  if [ -n "$command" ]; then
    kill -TERM "-$command" 2>/dev/null || kill -TERM "$command" 2>/dev/null || :
    { sleep 10; kill -KILL "-$command"; } >/dev/null 2>&1 &
    killer=$!
    wait "$command" 2>/dev/null || :
    # It holds every other signal off, as this shell does now.
    kill -KILL "$killer" 2>/dev/null || :
    kill -KILL "-$command" 2>/dev/null || :
  fi
  # Cut off between the question and its answer: asked again, it is known what to give back.
  if [ -n "$asked" ]; then (patience=10 && take && patience=60 && give_back) || :; fi
  if [ -n "$lease" ]; then (give_back) || :; fi
  exit "$status"
}

# Calls, up to eight times where no answer came or one that may be another later; if otter says Retry-After, at those times and
# for as long as $patience. The answer is in $answer.
insist() {
  tries=0 waited=0
  while :; do
    code=0
    answer=$(call "$@") || code=$?
    [ $code != 0 ] || return 0
    if [ $code = 22 ]; then
      [ "$(field .code)" != wait-timeout ] || return 1
      case $(field .status) in 408 | 429 | 5??) ;; *) return 1 ;; esac
    fi
    # A wrong address, a certificate that is not trusted and an unreadable file of authorities stay so.
    case $code in 1 | 3 | 60 | 77) return 1 ;; esac
    pause=$(retry_after)
    if [ -n "$pause" ]; then
      waited=$((waited + pause))
      [ "$waited" -lt "$patience" ] || return 1
    else
      pause=1 tries=$((tries + 1))
      [ $tries -lt 8 ] || return 1
    fi
    # A signal ends a wait, but not a sleep.
    sleep "$pause" >/dev/null 2>&1 &
    wait $!
  done
}

# A method, a path, and more for curl. Secrets go by its standard input, where no list of processes shows them.
call() {
  method=$1 path=$2
  shift 2
  {
    [ -z "${OTTER_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$OTTER_TOKEN"
    [ -z "$shown" ] || printf 'header = "Otter-Lease: %s"\n' "$shown"
    [ -z "${OTTER_REFERENCE:-}" ] || printf 'header = "Otter-Reference: %s"\n' "$OTTER_REFERENCE"
  } | curl -si --fail-with-body --connect-timeout 10 --max-time 60 -K - -X "$method" "$@" "$url/v1$path"
}

# Below the headers an answer of otter is one line of JSON. Nothing if there is no such line.
field() { printf '%s\n' "$answer" | sed -n '/^{/p' | jq -rs --arg me "$me" "last // empty | $1" 2>/dev/null || :; }

# The seconds of this header, if there are any.
retry_after() { printf '%s\n' "$answer" | sed -n 's/^[Rr]etry-[Aa]fter: *0*\([1-9][0-9]\{0,8\}\).*/\1/p' | tail -n 1; }

http_status() { printf '%s\n' "$answer" | sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p' | tail -n 1; }

complain() {
  why=$(field 'select(.code) | "\(.code): \(.detail)"')
  case $(field .status) in
    401 | 403) status=77 ;;
    409) case $why in no-free-machine*) if [ "$(field '.errors[0].code // ""')" = matches-none ]; then status=76; else status=75; fi ;; *prepare-failed* | *machine-gone*) status=73 ;; *) status=74 ;; esac ;;
    429) status=75 ;;
    503) if [ -n "$(retry_after)" ]; then status=75; else status=69; fi ;;
    404) if [ -n "$lease" ]; then status=74; else status=64; fi ;;
    423) status=74 ;;
    4??) status=64 ;;
    *) status=69 ;;
  esac
  fail "$status" "${why:-$(no_answer)}"
}

# Why there is no answer of otter, and what to do.
no_answer() {
  case $code in
    1 | 3) echo "OTTER_URL is \"$url\", which curl cannot read: write an address such as https://otter.lab:8080" ;;
    22) echo "what answers at $url is not otter, or serves https alone (HTTP status $(http_status))" ;;
    60) echo "the certificate of $url is not trusted (curl exits with 60): name the file of its authority in CURL_CA_BUNDLE" ;;
    77) echo "the file in CURL_CA_BUNDLE cannot be read (curl exits with 77)" ;;
    *) echo "otter does not answer at $url (curl exits with $code)" ;;
  esac
}

fail() {
  printf 'otter.sh: %s\n' "$2" >&2
  exit "$1"
}

main "$@"
