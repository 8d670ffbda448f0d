"""Text inside the sector of stills: pixels of clean stills that are taken for text, and names that are covered.

python tests/benchmarks/bench_text.py --camus CAMUS/database_nifti
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from alan.data.io.cine import read_cine
from alan.data.overlaid import find_text

WORDS = ("DOE^JANE 01/02/1955", "ID 0123456", "Smith, John", "12/11/2024 10:42")
GREYS = (255, 230, 200, 180)


def draw_words(frame, words, grey, rng):
    """The still with words inside its sector, and where they stand out."""
    height, width = frame.shape
    picture = Image.fromarray(np.zeros_like(frame))
    font = ImageFont.load_default(max(9, int(height * rng.uniform(0.018, 0.04))))
    place = (int(width * rng.uniform(0.25, 0.5)), int(height * rng.uniform(0.35, 0.7)))
    ImageDraw.Draw(picture).text(place, words, fill=grey, font=font)
    text = np.asarray(picture)
    return np.maximum(frame, text), (text > 100) & (text.astype(int) - frame > 45)


def as_jpeg(frame):
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=85)
    return np.asarray(Image.open(buffer))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--camus", required=True, help="folder of the patients of CAMUS")
    parser.add_argument("--step", type=int, default=12, help="every how many stills")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    files = sorted(Path(options.camus).glob("patient*/*_E?.nii.gz"))[:: options.step]
    false, shares, covered = 0, [], {grey: [] for grey in GREYS}
    for file in files:
        frame = read_cine(file).frames[0]
        found = find_text(frame, frame)
        false += found.any()
        shares.append(found.mean())
        grey = int(rng.choice(GREYS))
        seen, ink = draw_words(frame, str(rng.choice(WORDS)), grey, rng)
        seen = as_jpeg(seen) if rng.random() < 0.5 else seen
        if ink.any():
            covered[grey].append(find_text(seen, seen)[ink].mean() > 0.95)
    print(f"{len(files)} stills: text is found in {false}, on average in {np.mean(shares):.2%} of the pixels")
    for grey, lines in covered.items():
        print(f"names of grey {grey}: {np.mean(lines):.0%} of {len(lines)} covered")


if __name__ == "__main__":
    main()
