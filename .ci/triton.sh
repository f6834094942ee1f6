# shellcheck shell=bash
# NVIDIA's Triton server for the tests, without Docker: the wheel nvidia-pytriton carries it. Sourced by `run`.

triton_packages=(nvidia-pytriton==0.7.0 'onnxruntime>=1.20,<2')

# Have TWOSCALE_TRITON name a Python environment with Triton, unless there is one or a `tritonserver`.
triton() {
    local folder status=0
    if [[ -n ${TWOSCALE_TRITON:-} ]] || inside bash -c 'command -v tritonserver' >/dev/null; then return; fi
    folder=triton-$(key "$python" "${root:-$("$python" --version)}" "${triton_packages[@]}")
    if [[ ! -d $cache/$folder ]]; then
        say "Triton for the tests will be installed with pip into $cache/$folder (300 MB, once)"
        set +e
        (
            set -e
            built "$folder" build_triton
        )
        status=$?
        set -e
        ((status == 0)) || { say "without Triton: its tests are skipped" && return; }
    fi
    export TWOSCALE_TRITON=$cache/$folder
}

# Triton's own requirements are those of a Python package of NVIDIA's that is not used here.
build_triton() {
    inside "$python" -m venv "$1"
    inside "$1/bin/python" -m pip install -qq --no-deps "${triton_packages[0]}"
    inside "$1/bin/python" -m pip install -qq "${triton_packages[@]:1}"
}
