#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Downloads Pascal VOC 2007 (trainval, test) and 2012 (trainval) to FOLDER/VOCdevkit. Resumes when run again.

set -euo pipefail

usage() {
    cat <<'TEXT'
usage: get_pascal_voc.sh FOLDER

Downloads the three archives of Pascal VOC 2007 (trainval, test) and 2012 (trainval), 2.8 GB, checks their MD5 sums
and unpacks them to FOLDER/VOCdevkit/VOC2007 and FOLDER/VOCdevkit/VOC2012. Then train with

    python src/main.py ctdet --data_dir FOLDER --train-config cfg/resnet_18_pascal_fp.yaml

Run the script again to resume an interrupted download. Archives are deleted after unpacking. FOLDER needs 6 GB.
TEXT
}

if [[ $# -ne 1 || $1 == -* ]]; then
    usage
    [[ $# -eq 1 && ( $1 == -h || $1 == --help ) ]] && exit 0
    exit 2
fi

for tool in curl tar md5sum; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing; install it" >&2; exit 1; }
done

folder=$1
server=http://host.robots.ox.ac.uk/pascal/VOC
mkdir -p "$folder"
cd "$folder"

intact() { # FILE MD5
    echo "$2  $1" | md5sum --check --status 2>/dev/null
}

fetch() { # PATH_ON_SERVER MD5
    local archive unpacked
    archive=$(basename "$1")
    unpacked=.$archive.unpacked
    if [[ -e $unpacked ]]; then
        echo "$archive: already unpacked"
        return
    fi
    if ! intact "$archive" "$2"; then
        echo "$archive: downloading"
        curl --fail --location --retry 5 --retry-delay 5 --continue-at - --output "$archive" "$server/$1"
    fi
    if ! intact "$archive" "$2"; then
        rm "$archive"
        echo "error: $archive is damaged (its MD5 sum is not $2) and was deleted; run this script again" >&2
        exit 1
    fi
    echo "$archive: unpacking"
    tar --extract --file "$archive"
    touch "$unpacked"
    rm "$archive"
}

fetch voc2007/VOCtrainval_06-Nov-2007.tar c52e279531787c972589f7e41ab4ae64
fetch voc2007/VOCtest_06-Nov-2007.tar b6e924de25625d8de591ea690078ad9f
fetch voc2012/VOCtrainval_11-May-2012.tar 6cd6e144f989b92b3379bac3b3de84fd

for list in VOC2007/ImageSets/Main/trainval.txt VOC2007/ImageSets/Main/test.txt VOC2012/ImageSets/Main/trainval.txt; do
    printf '%6d images in VOCdevkit/%s\n' "$(wc -l < "VOCdevkit/$list")" "$list"
done
