#!/usr/bin/env bash
# Set up the project's own virtual environment in .venv, once; instant when it is already set up.
# Run it, or source it: then python is the one of .venv, and "$COOP3D_PYTHON" its path.
#
# torch is chosen to suit the machine: a torch that the invoking Python already has is used as it is; without a
# GPU, COOP3D_TORCH_SPEC (default torch==2.13.0) is installed; with one, a torch for it (default torch>=2.6).
# COOP3D_TORCH_INDEX_URL names another package index for torch alone. COOP3D_PYTHON_BASE names the Python to
# build on. COOP3D_EXTRAS (default dev) are the extras of pyproject.toml to install.
#   bash bash_scripts/setup_env.sh --help      print this and do nothing else

_coop3d_setup() {
  local root venv stamp_file lock_fd status
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" || return 1
  venv="$root/.venv"
  stamp_file="$venv/.coop3d-setup"
  export COOP3D_PYTHON="$venv/bin/python"
  if _coop3d_is_ready "$root" "$stamp_file"; then return 0; fi
  _coop3d_is_ours "$root" "$venv" || return 1

  exec {lock_fd}<"$root/bash_scripts" || return 1 # a directory can be locked as well as a file
  if ! flock -n "$lock_fd"; then
    echo "setup: another setup of $venv is running; waiting for it." >&2
    flock "$lock_fd" || return 1
  fi
  status=0
  if ! _coop3d_is_ready "$root" "$stamp_file"; then
    { _coop3d_install "$root" "$venv" && _coop3d_stamp "$root" >"$stamp_file"; } || status=1
  fi
  exec {lock_fd}<&-
  return $status
}

# What the environment depends on: its Python, the project's requirements and what was asked for.
_coop3d_stamp() { # root
  {
    "$COOP3D_PYTHON" -V && cat "$1/pyproject.toml" &&
      printf '%s|' "$1" "${COOP3D_EXTRAS:-dev}" "${COOP3D_TORCH_SPEC:-}" "${COOP3D_PYTHON_BASE:-}"
  } 2>/dev/null | sha256sum | cut -d' ' -f1
}

_coop3d_is_ready() { # root stamp_file
  [[ -x "$COOP3D_PYTHON" && -f "$2" && "$(<"$2")" == "$(_coop3d_stamp "$1")" ]]
}

# An environment serves one checkout: installing another into it would change the code that the first one runs.
_coop3d_is_ours() { # root venv
  local real owner
  real="$(readlink -f "$2")" || return 0 # not there yet
  if [[ "$real" != "$(readlink -f "$1")/"* ]]; then
    echo "setup: $2 leads to $real, outside this checkout; expected an environment of its own." \
      "Remove the link (rm '$2') and run this again." >&2
    return 1
  fi
  owner="$(_coop3d_installed_from "$2")"
  if [[ -n "$owner" && -d "$owner" && "$(readlink -f "$owner")" != "$(readlink -f "$1")" ]]; then
    echo "setup: $2 runs the coop3d of $owner, another checkout; expected this one, $1." \
      "Remove the environment (rm -r '$2') and run this again, which makes a new one." >&2
    return 1
  fi
}

# The checkout that an environment has installed as editable; nothing where there is none.
_coop3d_installed_from() { # venv
  local record
  for record in "$1"/lib/python3*/site-packages/coop3d-*.dist-info/direct_url.json; do
    if [[ -f "$record" ]]; then
      "$1/bin/python" -c 'import json, sys, urllib.parse
print(urllib.parse.unquote(urllib.parse.urlparse(json.load(open(sys.argv[1]))["url"]).path))' "$record" 2>/dev/null
      return 0
    fi
  done
}

# First Python >= 3.10 that runs.
_coop3d_find_python() {
  local candidate
  for candidate in ${COOP3D_PYTHON_BASE:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  echo "setup: no Python >= 3.10 found (tried ${COOP3D_PYTHON_BASE:-python3 and python3.10 to 3.13})." \
    "Install one, or set COOP3D_PYTHON_BASE=/path/to/python." >&2
  return 1
}

# A torch of at least 2.6 that runs; an older one is left alone, and coop3d's own is installed over it.
_coop3d_has_torch() { # python
  "$1" -c 'import re, sys, torch; torch.ones(2).sum().item()
sys.exit(tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < (2, 6))' >/dev/null 2>&1
}

# Where there are GPUs, torch must be able to use them: the driver may be older than its CUDA, or it is a CPU build.
_coop3d_suits_gpus() { # python
  if ! nvidia-smi >/dev/null 2>&1 || [[ "${COOP3D_TORCH_SPEC:-}" == *cpu* ]]; then return 0; fi
  if env -u CUDA_VISIBLE_DEVICES "$1" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    return 0
  fi
  echo "setup: this torch cannot use the GPUs of this machine: it is a CPU build, or made for a newer driver." \
    "Remove .venv, choose one with e.g. COOP3D_TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126, and run this" \
    "again. (nvidia-smi names the newest CUDA that the driver knows.)" >&2
  return 1
}

_coop3d_make_venv() { # python venv
  local options=()
  if _coop3d_has_torch "$1"; then
    echo "setup: using the torch that $1 already has." >&2
    options+=(--system-site-packages)
  fi
  if ! "$1" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "setup: $1 cannot make virtual environments: its venv module is incomplete." \
      "On Debian or Ubuntu: apt-get install python3-venv (or python3.X-venv), then run this again." >&2
    return 1
  fi
  echo "setup: making $2 with $1 ($("$1" -V))." >&2
  "$1" -m venv "${options[@]}" "$2" || return 1
  if ((${#options[@]})) && ! _coop3d_has_torch "$2/bin/python"; then
    # $1 is itself in a virtual environment, which --system-site-packages looks past.
    "$1" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])' \
      >"$("$2/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/invoking_python.pth"
  fi
}

_coop3d_install_torch() { # python
  if _coop3d_has_torch "$1"; then return 0; fi
  local spec="torch>=2.6" options=()
  if ! nvidia-smi >/dev/null 2>&1; then spec="torch==2.13.0"; fi
  if [[ -n "${COOP3D_TORCH_INDEX_URL:-}" ]]; then options+=(--index-url "$COOP3D_TORCH_INDEX_URL"); fi
  spec="${COOP3D_TORCH_SPEC:-$spec}"
  echo "setup: installing $spec." >&2
  "$1" -m pip install --quiet "${options[@]}" "$spec" || return 1
  _coop3d_has_torch "$1" || { echo "setup: $spec was installed but does not run." >&2; return 1; }
}

_coop3d_install() { # root venv
  local root="$1" venv="$2" base constraints status
  if [[ ! -x "$venv/bin/python" ]] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    base="$(_coop3d_find_python)" || return 1
    rm -rf "$venv"
    _coop3d_make_venv "$base" "$venv" || return 1
  fi
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  _coop3d_install_torch "$venv/bin/python" && _coop3d_suits_gpus "$venv/bin/python" || return 1
  constraints="$(mktemp)" || return 1
  "$venv/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
    >"$constraints"
  echo "setup: installing coop3d and what it needs." >&2
  "$venv/bin/python" -m pip install --quiet --constraint "$constraints" --editable "$root[${COOP3D_EXTRAS:-dev}]"
  status=$?
  rm -f "$constraints"
  return $status
}

# Sourced, the arguments are those of the script that does so.
if [[ "${BASH_SOURCE[0]}" == "$0" && ("${1:-}" == "-h" || "${1:-}" == "--help") ]]; then
  sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
  exit 0
fi

if ! _coop3d_setup; then
  echo "setup: failed; see the messages above." >&2
  # shellcheck disable=SC2317
  return 1 2>/dev/null || exit 1
fi
export PATH="${COOP3D_PYTHON%/*}:$PATH" # not its activate, which names the place where it was made
