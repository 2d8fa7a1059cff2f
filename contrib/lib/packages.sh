# Sourced by contrib/check and contrib/quickstart: what they need from the
# distribution. Debian and Ubuntu; elsewhere the missing things are named.

PACKAGES_BUILD="gcc make autoconf automake pkg-config libfcgi-dev
libjson-c-dev libpcre2-dev"
PACKAGES_OPTIONAL="libjpeg-dev libpng-dev libwebp-dev libcurl4-openssl-dev
libsystemd-dev"
PACKAGES_RUN="nginx-light curl openssl"
PACKAGES_TEST="libcmocka-dev python3 python3-venv mandoc"

# packages_missing PACKAGE...: those that dpkg does not list as installed.
packages_missing() {
    for p in "$@"; do
        dpkg-query -W -f '${Status}' "$p" 2>/dev/null |
            grep -q '^install ok installed' || printf '%s ' "$p"
    done
}

# packages_install PACKAGE...: installs what is missing, as root, quietly.
# nginx's own service is not wanted: the scripts start a private one.
packages_install() {
    if ! command -v dpkg-query >/dev/null; then
        echo "note: no dpkg here; these must be installed by hand: $*" >&2
        return 0
    fi
    missing=$(packages_missing "$@")
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "these packages are missing and only root can install them:" >&2
        echo "    apt-get install $missing" >&2
        return 1
    fi
    echo "installing $missing"
    had_nginx=$(packages_missing nginx-light nginx-core nginx | wc -w)
    log=$(mktemp)
    if ! { apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
            --no-install-recommends $missing; } >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
    # A package that starts a service at once would listen on port 80.
    if [ "$had_nginx" = 3 ] && command -v systemctl >/dev/null; then
        systemctl disable --now nginx >/dev/null 2>&1 || true
    fi
    return 0
}
