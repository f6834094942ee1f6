# shellcheck shell=bash
# Running commands in the environment that `root` and `python` name. Sourced by `run`.

# Files of the machine's /etc and /usr that show in the root file system: users, network, certificates, pip's settings.
machine_files() {
    printf '/etc/%s\n' passwd group hosts resolv.conf ssl/certs pip.conf xdg/pip
    {
        printenv SSL_CERT_FILE SSL_CERT_DIR PIP_CERT PIP_CONFIG_FILE PIP_CONSTRAINT REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
        cat /etc/pip.conf /etc/xdg/pip/pip.conf ~/.config/pip/pip.conf ~/.pip/pip.conf
    } 2>/dev/null | grep -oE '/(etc|usr)/[^[:space:],:]+' || true
}

# Run a command in the environment: operating system of the root file system, everything else of the machine.
inside() {
    if [[ -z $root ]]; then
        "$@"
        return
    fi
    local args=() path
    for path in usr etc bin sbin lib lib32 lib64 libx32; do
        if [[ -d $root/$path ]]; then args+=(--ro-bind "$root/$path" "/$path"); fi
    done
    for path in /*/; do
        path=${path%/}
        case $path in
            /usr | /etc | /bin | /sbin | /lib | /lib32 | /lib64 | /libx32 | /lost+found) ;;
            /dev) args+=(--dev-bind /dev /dev) ;;
            *) args+=(--bind "$path" "$path") ;;
        esac
    done
    while read -r path; do
        [[ -e $path ]] || continue
        if [[ ! -e $root$path ]]; then # a place to mount it on
            if [[ -d $path ]]; then mkdir -p "$root$path"; else install -D -m 644 /dev/null "$root$path"; fi
        fi
        args+=(--ro-bind "$path" "$path")
    done < <(machine_files)
    for path in PYTHONHOME PYTHONPATH LD_LIBRARY_PATH LD_PRELOAD VIRTUAL_ENV PETSC_DIR PETSC_ARCH SLEPC_DIR TWOSCALE_SUITE; do
        args+=(--unsetenv "$path")
    done
    args+=(--setenv PATH "${python%/*}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" --setenv LC_ALL C.UTF-8
        --setenv PYTHONPATH "$here" --setenv PYTHONNOUSERSITE 1)
    local signals=INT,QUIT,TERM
    [[ -n $(trap -p HUP) ]] || signals+=,HUP # ignored under nohup
    (
        trap '' INT QUIT TERM HUP
        exec bwrap --die-with-parent "${args[@]}" --chdir "$PWD" -- env --default-signal="$signals" "$@"
    ) <&0 &
    attend $!
}

# Wait for the bubblewrap process $1 until its command has dealt with whatever signals came.
attend() {
    local status=0
    # shellcheck disable=SC2064 # of this process, whatever runs when the signal comes
    trap "kill -TERM \$(cat /proc/$1/task/$1/children) 2>/dev/null" TERM HUP
    wait "$1" || status=$?
    while kill -0 "$1" 2>/dev/null; do wait "$1" || status=$?; done
    wait "$1" || status=$?
    trap - TERM HUP
    return "$status"
}

# One thread per rank, ranks that yield, and room for more of them than cores.
settings() {
    local name
    for name in OMP OPENBLAS MKL BLIS NUMEXPR; do
        name+=_NUM_THREADS
        export "$name=${!name:-1}"
    done
    export SCOTCH_DETERMINISTIC=${SCOTCH_DETERMINISTIC:-1} # a mesh made twice is spread over the ranks alike
    export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
    export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
    export PRTE_MCA_rmaps_default_mapping_policy=${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}
    export PRTE_MCA_mapby=${PRTE_MCA_mapby:-:oversubscribe} # the same since Open MPI 6
    # On one machine TCP only adds warnings; a batch job may span several.
    [[ -n ${SLURM_JOB_ID:-}${PBS_JOBID:-} ]] || export OMPI_MCA_btl=${OMPI_MCA_btl:-^tcp}
    if [[ $EUID == 0 ]]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
    export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
    export PATH=${python%/*}:$PATH
}
