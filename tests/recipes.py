"""Where the recipes are, and options that make them small."""

from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"


SMALL = ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--model.noise.warmup_epochs=1"]


TINY = ["--model.backbone=timm:test_resnet", "--model.pretrained=false", "--model.image_size=32"]
