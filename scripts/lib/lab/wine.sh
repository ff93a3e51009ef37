#!/bin/sh
# Runs a Windows program in L1, under Wine, from what scripts/lib/wine-lab.mjs has put into the cache:
#
#   wine.sh PROGRAM [ARGUMENT...]      PROGRAM: a file, or `node` for Node.js
#
# The working directory is the copy of the project for Windows. stdin is a file named by XENLIGHTEN_STDIN, or nothing;
# stdout and stderr come when the program has ended: Wine's Node.js writes neither to pipes nor to L1's ports.
#
# Quirk: this copy of Wine has no fonts' library, and says so at each start; that is left out.
wine="$HOME/.cache/xenlighten/wine"
tree="$wine/lab"
export WINEDEBUG="${WINEDEBUG:--all}" WINEPREFIX="$wine/prefix" LD_LIBRARY_PATH="$tree/lib/x86_64-linux-gnu" USER=root
cp /project/build/windows/WinHvPlatform.dll "$wine/prefix/drive_c/windows/system32/" || exit 125
cd /project/build/windows/project || exit 125
program="$1"
shift
[ "$program" != node ] || program="$(cat "$tree/node")"
"$tree/lib/wine/wine64" "$program" "$@" <"${XENLIGHTEN_STDIN:-/dev/null}" >/tmp/wine.out 2>/tmp/wine.err
status=$?
cat /tmp/wine.out
grep -v -e 'FreeType font library' -e '^use TrueType fonts' -e '^or equal to 2.0.5' -e 'http://www.freetype.org' /tmp/wine.err >&2
exit $status
