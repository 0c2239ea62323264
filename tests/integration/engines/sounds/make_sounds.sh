#!/bin/sh
# Makes the sounds anew, with Debian's sox, flac, lame and vorbis-tools: a tone in every format, and ten minutes of nothing.
set -eu
cd "$(dirname "$0")"
sox -n -r 22050 -c 2 -b 16 tone.wav synth 0.5 sine 440 vol 0.5
flac -s -f tone.wav -o tone.flac
lame -S --quiet -b 64 tone.wav tone.mp3
oggenc -Q -q 2 tone.wav -o tone.ogg
rm tone.wav
sox -n -r 8000 -c 1 -b 8 -e unsigned-integer tone-8-bit.wav synth 0.5 sine 440 vol 0.5
sox -n -r 22050 -c 2 -b 24 tone-24-bit.wav synth 0.2 sine 440 vol 0.5
sox -n -r 48000 -c 1 -b 32 -e floating-point tone-float.wav synth 0.1 sine 440 vol 0.5
sox -D -n -r 16000 -c 1 -b 16 ten.wav trim 0 600
flac -s -f --best ten.wav -o ten-minutes-of-silence.flac
rm ten.wav
