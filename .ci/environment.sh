# shellcheck shell=bash
# The environment: found in the active Python, installed with apt, or built in the cache folder. Sourced by `run`.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/twoscale
packages=(
    ca-certificates python3-dolfinx-real python3-petsc4py-real python3-mpi4py python3-numpy python3-scipy python3-torch
    python3-meshio python3-gmsh python3-h5py python3-matplotlib python3-venv python3-dev gcc libc6-dev
    openmpi-bin libopenblas0-pthread
)
root=   # root file system to enter with bubblewrap; empty: the machine's own
python= # interpreter of the environment

has() { command -v "$1" >/dev/null; }
key() { printf '%s\n' "$@" | sha256sum | cut -c1-12; }
discard() { rm -rf --one-file-system "$@"; }

# Path of the interpreter $1 if it imports DOLFINx >= 0.9.
probe() {
    (cd / && "$1" - 2>/dev/null) <<'END'
import importlib.util
import sys

names = ("dolfinx", "petsc4py", "mpi4py")
if sys.version_info < (3, 11) or not all(map(importlib.util.find_spec, names)):
    sys.exit(1)
import dolfinx

print(sys.executable)
sys.exit(tuple(map(int, dolfinx.__version__.split(".")[:2])) < (0, 9))
END
}

# The requirements of the extra `dev` that the interpreter $1 does not meet, one a line.
unmet() {
    inside "$1" "$here/.ci/unmet.py" "$here/pyproject.toml"
}

apt_offers_dolfinx() {
    has apt-cache || return 1
    if [[ $EUID == 0 ]] && ! compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null; then apt-get update -q >&2 || true; fi
    local version
    version=$(LC_ALL=C apt-cache policy python3-dolfinx-real | sed -n 's/^ *Candidate: *\([0-9]*:\)\?//p')
    [[ $version == [0-9]* ]] && dpkg --compare-versions "$version" ge 0.9
}

# ---- building ---------------------------------------------------------------------------------------------------------

agreed() {
    local answer=
    say "$1"
    [[ $yes == 1 || ! -t 0 ]] || read -rp "run: go ahead? [Y/n] " answer
    [[ $answer != [nN]* ]]
}

# Install the packages $2… with the machine's apt, after asking with the words $1.
apt_install() {
    local as_root=()
    if [[ $EUID != 0 ]]; then
        has sudo || return 1
        if [[ -t 0 ]]; then as_root=(sudo); else as_root=(sudo -n); fi
    fi
    agreed "$1" || return 1
    "${as_root[@]}" apt-get update -q </dev/null >&2 || true
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${@:2}" </dev/null >&2
}

# Make the folder $cache/$1 with the command $2…, which is given a folder aside; one call at a time, whole or not at all.
built() {
    local final=$cache/$1 start=$SECONDS
    [[ -d $final ]] && return
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock -n 9 || { say "another call is building the environment; waiting for it" && flock 9; }
    if [[ ! -d $final ]]; then
        discard "$cache"/*.part
        trap 'discard "$cache"/*.part; say "could not build the environment; the lines above say why"' EXIT
        "${@:2}" "$final.part" >&2 </dev/null
        mv "$final.part" "$final"
        trap - EXIT
        say "built $final in $((SECONDS - start)) s, $(du -sm "$final" | cut -f1) MB"
    fi
    exec 9>&-
}

# Space for $1 GB in the folder $2.
room() {
    mkdir -p "$2"
    local free=$(($(df -Pk "$2" | awk 'END { print $4 }') / 1048576))
    ((free >= $1)) || die "$2 has $free GB free and $1 GB are needed: free some, or point $3 to a larger disk"
}

# Codename and "suite components" of the root file system: the machine's archive decides which distribution.
release() {
    # shellcheck source=/dev/null
    . /etc/os-release 2>/dev/null || true
    if [[ ${ID:-} == ubuntu || -n ${UBUNTU_CODENAME:-} ]]; then
        echo "${UBUNTU_CODENAME:-$VERSION_CODENAME} Ubuntu ${TWOSCALE_SUITE:-resolute} main universe"
    else
        echo "${DEBIAN_CODENAME:-${VERSION_CODENAME:-unknown}} Debian ${TWOSCALE_SUITE:-trixie} main"
    fi
}

# Address of the archive that this machine installs $1 (codename) of $2 (Debian, Ubuntu) from.
mirror() {
    apt-get indextargets --format "\$(RELEASE) \$(CODENAME) \$(COMPONENT) \$(ORIGIN) \$(REPO_URI)" 'Created-By: Packages' |
        awk -v name="$1" -v origin="$2" '
            ($1 == name || $2 == name) && $3 == "main" { if ($4 == origin) exact = $5; else if (!other) other = $NF }
            END { print exact ? exact : other }'
}

build_root() {
    local codename origin suite components url options=()
    read -r codename origin suite components < <(release)
    url=$(mirror "$codename" "$origin")
    [[ -n $url ]] || die "apt on this machine names no $origin archive for $codename: check /etc/apt/sources.list*"
    room 5 "$cache" XDG_CACHE_HOME
    # An archive that is never released is dated, and mirrors of it lag behind that date.
    [[ $suite != sid && $suite != unstable ]] || options=(--aptopt='Acquire::Check-Valid-Until "false"')
    options+=(--variant=apt --components="$components" --include="${packages[*]}")
    if [[ $EUID == 0 ]]; then
        mmdebstrap --mode=root "${options[@]}" "$suite" "$1" "$url"
    else # through tar, so that every file belongs to the user
        room 5 "${TMPDIR:-/var/tmp}" TMPDIR
        mkdir "$1"
        TMPDIR=${TMPDIR:-/var/tmp} mmdebstrap --format=tar "${options[@]}" "$suite" - "$url" |
            tar -x -C "$1" --exclude='./dev/*'
    fi
}

build_venv() {
    local base=$1 part=$2 final=${2%.part} lacking requirements
    lacking=$(unmet "$base")
    mapfile -t requirements <<<"$lacking"
    say "installing with pip into $final (a minute, 1 GB; minutes and several GB if torch is among it): ${requirements[*]}"
    inside "$base" -m venv --system-site-packages "$part"
    # The base may itself be a venv, which --system-site-packages does not show.
    inside "$base" - "$part" <<'END'
import sys
import sysconfig

purelib = sysconfig.get_path("purelib", vars={"base": sys.argv[1], "platbase": sys.argv[1]}, scheme="venv")
with open(f"{purelib}/base.pth", "w") as file:
    file.writelines(f"import site; site.addsitedir({sysconfig.get_path(name)!r})\n" for name in ("purelib", "platlib"))
END
    # What DOLFINx is built on must stay what it is: an incompatible requirement is an error.
    inside "$part/bin/python" -m pip list --format=freeze |
        grep -iE '^(numpy|scipy|torch|mpi4py|petsc4py|h5py|fenics-[a-z]+)==' >"$part/held.txt"
    inside "$part/bin/python" -m pip install -qq --no-warn-conflicts -c "$part/held.txt" "${requirements[@]}"
    lacking=$(unmet "$part/bin/python")
    [[ -z $lacking ]] || die "still missing after pip install: $lacking"
    grep -rlIF "$part" "$part/bin" | xargs sed -i "s|$part|$final|g"
}

# ---- choosing ---------------------------------------------------------------------------------------------------------

root_key() { echo "root-$(key "$(release | cut -d' ' -f3-)" "$(uname -m)" "${packages[@]}")"; }
requirements() {
    sed -n '/^dependencies = \[/,/^\]/p; /^\[project.optional-dependencies\]/,/^\[tool/p' "$here/pyproject.toml"
}

# Set `root` and `python`.
choose() {
    local base=
    if [[ -z ${TWOSCALE_SUITE:-} ]]; then
        for python in python3 python /usr/bin/python3; do
            if has "$python" && base=$(probe "$python"); then break; else base=; fi
        done
    fi
    root=$cache/$(root_key)
    if [[ -n $base ]]; then
        root=
    elif [[ ! -d $root && -z ${TWOSCALE_SUITE:-} ]] && apt_offers_dolfinx && apt_install \
        "DOLFINx will be installed with apt (${#packages[@]} packages and what they need; about 5 minutes, 3 GB)" \
        "${packages[@]}"; then
        base=$(probe /usr/bin/python3) || die "apt installed DOLFINx, but /usr/bin/python3 cannot import it"
        root=
    else
        base=/usr/bin/python3
        enter_root
    fi
    python=$base
    local venv lacking=
    venv=venv-$(key "$base" "${root:-$("$base" -c 'import dolfinx, sys; print(dolfinx.__version__, sys.version)')}" "$(requirements)")
    [[ -d $cache/$venv ]] || lacking=$(unmet "$base")
    if [[ -d $cache/$venv || -n $lacking ]]; then
        built "$venv" build_venv "$base"
        python=$cache/$venv/bin/python
    fi
}

# Have the root file system ready.
enter_root() {
    has apt-get || die "no DOLFINx >= 0.9 in the active Python, and this machine is no Debian or Ubuntu:" \
        "use conda (conda env create -f environment.yml; conda activate twoscale) or the image dolfinx/dolfinx:stable"
    local missing=()
    has bwrap || missing+=(bubblewrap)
    [[ -d $root ]] || has mmdebstrap || missing+=(mmdebstrap)
    [[ -d $root || $EUID == 0 ]] || has newuidmap || missing+=(uidmap)
    if ((${#missing[@]})); then
        apt_install "${missing[*]} will be installed with apt (some MB)" "${missing[@]}" ||
            die "an administrator must first run: apt-get install ${missing[*]}"
    fi
    bwrap --ro-bind / / true || die "bubblewrap cannot create namespaces here (in a container, or forbidden by the" \
        "administrator): use conda (environment.yml) or the image dolfinx/dolfinx:stable"
    [[ -d $root ]] || say "building a root file system ($(release | cut -d' ' -f2,3)) with DOLFINx in $root" \
        "(2 to 10 minutes, 4 GB; once)"
    built "${root##*/}" build_root
}
