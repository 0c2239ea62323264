#!/bin/sh
# Makes the samples anew, with Debian's flite (CMU licence; the voice is cmu_us_slt) and this repository's Python.
set -eu
cd "$(dirname "$0")"
flite -voice slt -t "Every call makes exactly one usage record." -o every-call.wav
"${PYTHON:-python3}" - <<'PY'
from PIL import Image, ImageDraw, ImageFont

lines = ["Invoice of November", "tokens in 1,204,551", "tokens out 88,120", "audio 312 minutes", "images 4,096", "total due 12.40"]
page = Image.new("L", (320, 320), "white")
pen = ImageDraw.Draw(page)
for row, line in enumerate(lines * 2):
    pen.text((12, 10 + 25 * row), line, fill="black", font=ImageFont.load_default(20))
# A quarter turn clockwise.
page.convert("1").rotate(-90, expand=True).save("page-turned-90.png", optimize=True)
PY
