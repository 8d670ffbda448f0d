"""Examples in the help of each verb."""

from __future__ import annotations

#: One or two commands of each verb, one per line.
EXAMPLES = {
    "demo": "alan demo --fast true --out runs/demo_fast",
    "simulate": """alan simulate --out data/sim_camus --layout camus --n_patients 60 --size 112
alan simulate --out my_loops --layout clinic --n_patients 4""",
    "frames": "alan frames --root my_loops --out my_pictures --every 5 --sector true",
    "check": "alan check --kind camus --root CAMUS",
    "prepare": """alan prepare --kind camus --root CAMUS --out data/camus.h5 --views "[A4C, A2C]"
alan prepare --kind folder --root my_pictures --options.unlabelled true --out data/mine.h5""",
    "parcels": "alan parcels --store data/mine.h5 --backbone alan-sim --split null --out runs/parcels",
    "name": "alan name --parcels runs/parcels/parcels.safetensors --store data/sim_camus.h5 --out runs/names",
    "assemble": """alan assemble --parcels runs/parcels/parcels.safetensors --white_boxes "[runs/names]" \\
    --bank "[data/sim_camus.h5]" --out models/mine""",
    "calibrate": """alan calibrate models/mine --stores "[data/camus.h5]" --split val --out models/calibrated""",
    "segment": """alan segment my_pictures --out runs/pictures
alan segment data/camus.h5 --frames annotated --split test --out runs/camus""",
    "analyze": """alan analyze my_loops --out results --key key.csv
alan analyze my_loops --out results --patient '(?P<patient>[^/_]+)[^/]*$' --spacing 0.3""",
    "export": "alan export alan-sim --out exported",
    "cache": """alan cache --store data/camus.h5 --backbone alan-sim --features "[cls]" --out data/cls.h5""",
    "evaluate": "alan evaluate --config evaluate/camus_a4c --out runs/camus_a4c",
    "ensemble": """alan ensemble --store data/acdc_128.h5 --out runs/ensemble \\
    --members '{U-Net: runs/unet/segmenter.safetensors, FPN: runs/fpn/segmenter.safetensors}'""",
    "search": "alan search --config search/camus_tiny --study.n_trials 20 --out runs/search",
    "report": "alan report runs/camus_a4c",
    "active run": "alan active run --config active/camus_tiny --loop.functions '[random, mfe]' --out runs/active",
    "active merge": "alan active merge runs/random_0 runs/mfe_0 --out runs/active_merged",
    "active suggest": """alan active suggest my_pictures --n 50 --out runs/next \\
    --network runs/unet/segmenter.safetensors""",
    "ui": "alan ui --port 7861",
    "configs": "alan configs",
    "doctor": "alan doctor",
    "fit": """alan fit --config supervised/unet_tiny_camus --out runs/unet --trainer.max_steps 500
alan fit --config dino/tiny_camus --data.init_args.stores '[data/mine.h5]' --out runs/backbone""",
    "validate": "alan validate --config supervised/unet_tiny_camus --ckpt_path runs/unet/checkpoints/best.ckpt",
    "test": "alan test --config my_module.yaml --ckpt_path runs/mine/checkpoints/last.ckpt",
    "predict": "alan predict --config my_module.yaml --ckpt_path runs/mine/checkpoints/last.ckpt",
}


def examples(verb: str) -> str:
    """Return the examples of a verb as a section of its help."""
    return "examples\n" + "\n".join(f"  {line}" for line in EXAMPLES[verb].splitlines())
