#!/bin/sh
# Prints the path of a Chromium for the browser tests: one that is there, Playwright's own, or
# Debian's package, which is installed where this runs as root. Prints nothing where none can be
# had; the browser tests then skip. Says on stderr what it does, and never fails.

works() {
    [ -n "$1" ] && timeout 30 "$1" --version >/dev/null 2>&1
}

found() {
    echo "Browser tests use $1" >&2
    echo "$1"
    exit 0
}

playwright_path() {
    .venv/bin/python -c 'from playwright.sync_api import sync_playwright
with sync_playwright() as playwright: print(playwright.chromium.executable_path)'
}

for name in "$TUNEPLAN_CHROMIUM" chromium chromium-browser google-chrome google-chrome-stable; do
    path=$(command -v "$name") && works "$path" && found "$path"
done

echo "No browser here: downloading Playwright's Chromium" >&2
timeout 180 .venv/bin/playwright install chromium >&2 || echo "That did not work." >&2
path=$(playwright_path) && works "$path" && found "$path"

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing the system package chromium with apt-get, as root" >&2
    { timeout 300 apt-get update && timeout 600 apt-get install -y --no-install-recommends chromium
    } >&2 || echo "That did not work." >&2
    path=$(command -v chromium) && works "$path" && found "$path"
fi

echo "NO BROWSER FOUND: the browser tests will be skipped. Install Chromium to run them." >&2
exit 0
