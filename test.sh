#!/usr/bin/env bash
# Runs the image as the platform does (no network, read-only root, empty /tmp, read-only /input, 16 GB, no privileges) on
# the sample cases and compares what it writes with what is expected. RUN_OPTIONS is added to each run ("--gpus all").
set -euo pipefail
cd "$(dirname "$0")"
. test/container/engine.sh

python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || { echo "$python is missing: make setup" >&2; exit 1; }
engine image inspect "$IMAGE" >/dev/null 2>&1 || { echo "There is no image $IMAGE: ./build.sh" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0

# What is mounted has to be readable for the image's user, whoever made it.
cp -R model test/cases "$work"
chmod -R a+rX "$work"
cases=$work/cases

# check NAME COMMAND...: counts and reports one test.
check() {
    local name=$1
    shift
    if "$@"; then
        echo "PASS  $name"
        passed=$((passed + 1))
    else
        echo "FAIL  $name" >&2
        failed=$((failed + 1))
    fi
}

# Without systemd, runc may not raise what a process may open and start: so a limit is always given.
limits=(--ulimit nofile=1024:1024 --ulimit nproc=1024:1024)

# run_image INPUT [option...]: leaves $work/output, $work/stdout, $work/stderr, and the image's exit code as its own.
# PROGRAM_OPTIONS are those of the image's program.
run_image() {
    local input status=0 started=$SECONDS
    input=$(realpath "$1")
    shift
    rm -rf "$work/output"
    mkdir -m 777 "$work/output" # the image's user is nobody here
    engine run --rm --network none --read-only --tmpfs /tmp:rw,size=1g \
        --memory 16g --cap-drop ALL --security-opt no-new-privileges "${limits[@]}" \
        --env LONGILESION_API_METHOD=exec --volume "$input:/input:ro" --volume "$work/output:/output" "$@" \
        ${RUN_OPTIONS:-} "$IMAGE" ${PROGRAM_OPTIONS:-} \
        >"$work/stdout" 2>"$work/stderr" || status=$?
    echo "      $((SECONDS - started)) s, exit code $status"
    return $status
}

show_log() {
    cat "$work/stdout" "$work/stderr"
    return 1
}

gives_the_expected_maps() { # CASE [option...]
    run_image "$cases/$1/input" "${@:2}" || show_log || return
    "$python" test/container/compare_outputs.py "$work/output" "$cases/$1/expected"
}

gives_maps_without_followup_clicks() {
    cp -R "$cases/interface_1/input" "$work/no_clicks"
    "$python" - "$work/no_clicks/primary-followup-lesion-clicks.json" <<'PYTHON'
import json, pathlib, sys
path = pathlib.Path(sys.argv[1])
path.write_text(json.dumps(json.loads(path.read_text()) | {"points": []}))
PYTHON
    run_image "$work/no_clicks" || show_log || return
    "$python" test/container/compare_outputs.py --layout-only "$work/output" "$cases/interface_1/expected"
}

# A small member of random weights for every recipe: every kind of network runs in the image.
gives_maps_of_a_member_of_every_recipe() {
    "$python" -m test.container.mixed_bundle "$work/mixed" || return
    chmod -R a+rX "$work/mixed"
    run_image "$cases/interface_1/input" --volume "$work/mixed:/opt/ml/model:ro" || show_log || return
    grep -q "networks from /opt/ml/model" "$work/stdout" || show_log || return
    "$python" test/container/compare_outputs.py --layout-only "$work/output" "$cases/interface_1/expected"
}

# A model of lesion types lies in a folder of the mounted bundle; all of the scan is liver.
reports_types_by_a_mounted_bundle() {
    cp -R "$work/model" "$work/typing"
    rm -rf "$work/typing/diagnosis"
    "$python" -m test.container.types_bundle "$work/typing/diagnosis" "$cases/interface_1/input" "$work/organs" || return
    chmod -R a+rX "$work/typing" "$work/organs"
    PROGRAM_OPTIONS="--types --organs /organs --report /output/report.json" run_image "$cases/interface_1/input" \
        --volume "$work/typing:/opt/ml/model:ro" --volume "$work/organs:/organs:ro" || show_log || return
    grep -q '"types_statement": "research use only' "$work/output/report.json" || show_log || return
    grep -q '"type_probabilities": {' "$work/output/report.json" || show_log || return
    "$python" test/container/compare_outputs.py "$work/output" "$cases/interface_1/expected"
}

# The platform shows the user the last line of stderr and throws all outputs away: one line, and nothing half written.
fails_cleanly() { # INPUT [option...]
    if run_image "$@"; then echo "      exit code 0 on broken input" >&2; return 1; fi
    sed 's/^/      /' "$work/stderr"
    [ "$(grep -c . "$work/stderr")" = 1 ] || { echo "      stderr has not exactly one line" >&2; return 1; }
    [ -z "$(find "$work/output" -type f)" ] || { echo "      /output is not empty" >&2; return 1; }
}

with_a_truncated_scan() { # FOLDER
    cp -R "$cases/interface_1/input" "$1"
    truncate --size=2K "$1"/images/primary-followup-ct/*
}

refuses_a_truncated_scan() {
    with_a_truncated_scan "$work/broken"
    fails_cleanly "$work/broken"
}

# Nothing but the mounted bundle can fail here: so a mounted bundle is really used.
refuses_a_damaged_mounted_bundle() {
    cp -R "$work/model" "$work/damaged"
    echo '{' >"$work/damaged/settings.json"
    fails_cleanly "$cases/interface_1/input" --volume "$work/damaged:/opt/ml/model:ro"
}

# Started once, before there is an input; between two cases, a damaged one. Its folders are emptied, not replaced.
serves_cases_one_after_another() {
    local container status=0
    rm -rf "$work/served" "$work/output"
    mkdir -p "$work/served" && mkdir -m 777 "$work/output"
    container=$(engine run --detach --network none --read-only --tmpfs /tmp:rw,size=1g \
        --memory 16g --cap-drop ALL --security-opt no-new-privileges "${limits[@]}" \
        --env LONGILESION_API_METHOD=invoke --volume "$work/served:/input:ro" --volume "$work/output:/output" \
        ${RUN_OPTIONS:-} "$IMAGE") || return
    serves_the_samples "$container" || { engine logs "$container"; status=1; }
    engine stop --time 5 "$container" >/dev/null
    # It had nothing to do: so the signal ends it at once, and there is nothing to say.
    [ "$(engine inspect --format '{{.State.ExitCode}}' "$container")" = 0 ] || status=1
    engine rm --force "$container" >/dev/null
    return $status
}

serves_the_samples() { # CONTAINER
    answers "$1" health 200 || return
    serves "$1" "$cases/interface_1/input" 201 || return
    "$python" test/container/compare_outputs.py "$work/output" "$cases/interface_1/expected" || return
    with_a_truncated_scan "$work/served_broken"
    serves "$1" "$work/served_broken" 500 || return
    [ -z "$(find "$work/output" -type f)" ] || { echo "      /output is not empty" >&2; return 1; }
    serves "$1" "$cases/interface_2/input" 201 || return
    "$python" test/container/compare_outputs.py "$work/output" "$cases/interface_2/expected"
}

serves() { # CONTAINER INPUT STATUS
    rm -rf "$work"/served/*
    # What the image's user has written, only that one may remove.
    engine exec "$1" sh -c 'rm -rf /output/*' || return
    cp -R "$2"/* "$work/served"
    answers "$1" invoke "$3"
}

answers() { # CONTAINER health|invoke STATUS
    engine exec "$1" python -c '
import sys, time, urllib.error, urllib.request
path, expected = sys.argv[1:]
request = urllib.request.Request(f"http://127.0.0.1:4743/{path}", method="POST" if path == "invoke" else "GET")
until, status = time.monotonic() + 300, 0
while True:
    try:
        status = urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        status = error.code
    except urllib.error.URLError:
        # Not listening yet.
        pass
    if status == int(expected) or path == "invoke" or time.monotonic() > until:
        break
    time.sleep(0.2)
print(f"      {path}: {status}")
sys.exit(status != int(expected))
' "$2" "$3"
}

is_what_the_platform_accepts() {
    local user method mode architecture
    user=$(engine image inspect --format '{{.Config.User}}' "$IMAGE")
    method=$(engine image inspect --format '{{index .Config.Labels "org.grand-challenge.api-method"}}' "$IMAGE")
    mode=$(engine image inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$IMAGE" \
        | sed -n 's/^LONGILESION_API_METHOD=//p')
    architecture=$(engine image inspect --format '{{.Os}}/{{.Architecture}}' "$IMAGE")
    echo "      user '$user', api-method '$method', started for '$mode', $architecture"
    [ -n "$user" ] && [ "$user" != root ] && [ "$user" != 0 ] && [[ "$method" = exec || "$method" = invoke ]] \
        && [ "$mode" = "$method" ] \
        && [ "$architecture" = linux/amd64 ]
}

adds_little_to_its_base() {
    local base size
    base=$(engine image inspect --format '{{index .Config.Labels "org.opencontainers.image.base.name"}}' "$IMAGE")
    size=$(($(engine image inspect --format '{{.Size}}' "$IMAGE") - $(engine image inspect --format '{{.Size}}' "$base")))
    echo "      $((size / 1000000)) MB above $base"
    [ "$size" -gt 0 ] && [ "$size" -lt 600000000 ]
}

holds_the_packages_that_a_case_needs() {
    engine run --rm --interactive --network none "${limits[@]}" --entrypoint python "$IMAGE" - \
        <test/container/compare_packages.py
}

check "the image is what the platform accepts" is_what_the_platform_accepts
check "the image is at most 600 MB larger than its base" adds_little_to_its_base
check "the image holds its base's packages, those of requirements.txt and no others" holds_the_packages_that_a_case_needs
for case in interface_1 interface_2 interface_3 interface_4; do
    check "$case, weights of the image" gives_the_expected_maps "$case"
done
# Where weights come from has nothing to do with what there is to segment.
check "interface_4, weights mounted" gives_the_expected_maps interface_4 --volume "$work/model:/opt/ml/model:ro"
check "no follow-up clicks" gives_maps_without_followup_clicks
check "a mounted bundle with a member of every recipe" gives_maps_of_a_member_of_every_recipe
check "types of lesions by a mounted bundle" reports_types_by_a_mounted_bundle
check "a truncated scan is refused" refuses_a_truncated_scan
check "a damaged mounted bundle is refused" refuses_a_damaged_mounted_bundle
check "cases one after another, a damaged one between them, served" serves_cases_one_after_another

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
