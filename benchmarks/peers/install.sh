#!/usr/bin/env bash
# Get the programs that this project is measured against: `install.sh DIRECTORY`, as root on Debian.
#
# Those of Debian's unstable release are statically linked Go programs, unpacked beside the system;
# the others are built from PyPI in environments of their own. One that fails is left out.
set -euo pipefail

place=$(realpath -m "${1:?which directory?}")
python=${PYTHON:-python3.11}
mkdir -p "$place/bin" "$place/apt/lists/partial" "$place/apt/cache/archives/partial"

from_unstable() {
  local site options
  site=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' | head -n 1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site sid main" \
    > "$place/apt/sources.list"
  options=(-o "Dir::Etc::sourcelist=$place/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$place/apt/lists" -o "Dir::Cache=$place/apt/cache")
  apt-get "${options[@]}" update
  for package in "$@"; do
    (cd "$place/apt" && rm -f "$package"_*.deb && apt-get "${options[@]}" download "$package")
    dpkg -x "$place/apt/$package"_*.deb "$place/apt/root"
    cp "$place/apt/root/usr/bin/$package" "$place/bin/$package"
  done
}

from_pypi() {
  local name=$1
  shift
  "$python" -m venv --clear "$place/$name"
  "$place/$name/bin/pip" install --quiet "$@"
}

benji() {
  # Its own pin of ruamel.yaml does not build on today's Pythons; the newer one serves.
  from_pypi benji 'ruamel.yaml<0.18' 'PrettyTable<1' 'sqlalchemy<2' setproctitle python-dateutil \
    'alembic<2' psycopg2-binary 'argcomplete<2' sparsebitfield 'cerberus<2' pycryptodome \
    'pyparsing<3' 'semantic-version<3' dateparser structlog colorama diskcache 'attrs<22' \
    zstandard setuptools &&
    "$place/benji/bin/pip" install --quiet --no-deps benji==0.17.0
}

apt-get update
apt-get install --yes --no-install-recommends \
  gcc libacl1-dev liblz4-dev libzstd-dev libxxhash-dev libssl-dev pkg-config
from_unstable restic desync || echo "restic, desync: left out" >&2
from_pypi borg1 'borgbackup==1.4.*' || echo "borg 1.4: left out" >&2
# The newest beta that builds with OpenSSL 3.0.
from_pypi borg2 'borgbackup==2.0.0b23' || echo "borg 2: left out" >&2
benji || echo "benji: left out" >&2
