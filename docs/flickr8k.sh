#!/usr/bin/env bash
# Flickr8k from files to scores, every stage by its command. See docs/flickr8k.md.
#
#   docs/flickr8k.sh TEXT PHOTOS OUT [SPLIT] [ENCODER]
#
# TEXT     folder with Flickr8k.token.txt and Flickr_8k.{train,dev,test}Images.txt
# PHOTOS   folder with the photos
# OUT      folder to write; run again, it goes on where it stopped
# SPLIT    what to score: test (default) or dev
# ENCODER  vgg16 (default), another keras.applications model, or a saved .keras file
set -euo pipefail
text=$1 photos=$2 out=$3 split=${4:-test} encoder=${5:-vgg16}

raycap prepare --captions "$text" --photos "$photos" --out "$out/prepared"
raycap extract --manifest "$out/prepared/photos.parquet" --encoder "$encoder" --out "$out/features"
raycap train --prepared "$out/prepared" --features "$out/features" --label-smoothing 0.1 --epochs 5 \
	--out "$out/model"
raycap evaluate --model "$out/model" --prepared "$out/prepared" --features "$out/features" \
	--split "$split" --beam-width 3 --length-penalty 0.7 --out "$out/scores-$split"
