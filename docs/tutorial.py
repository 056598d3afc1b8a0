# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Tutorial: from wrong labels to a clean model
#
# Ten classes of small photos, two fifths of whose labels are wrong. In one minute on a CPU you will see the noise,
# train with and without the noise layer, look at the errors that it finds, correct them, train again, and export a
# model that plain timm loads.
#
# The photos are scikit-learn's handwritten digits, so nothing is downloaded. This page is the output of
# [tutorial.py](tutorial.py): run it with `python docs/tutorial.py`, or make a notebook of it with
# `jupytext --to notebook docs/tutorial.py`.

# %%
import functools
import logging
import warnings
from pathlib import Path

import lightning.pytorch as L
import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

from lightning_noisy import NoiseConfig, NoisyImageClassifier, NoisyImageDataModule, audit_labels
from lightning_noisy.hub import export_clean
from lightning_noisy.noise.counting import counts_to_shares
from lightning_noisy.noise.synthetic import corrupt_labels
from lightning_noisy.pictures import transition_matrices_figure
from lightning_noisy.training.loggers import NoisyCSVLogger

RUN = Path("runs/tutorial")
torch.set_num_threads(1)  # so small a network is no faster with more, and the numbers stay the same
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", ".*does not have many workers.*|.*LeafSpec.*|.*exists and is not empty.*")

# %% [markdown]
# ## 1. A folder of photos, some under the wrong name
#
# Someone has searched the web for each class. The search engine mixes up classes that look alike (1 and 7, 3 and 8,
# 4 and 9) in 30% of the cases, and puts a quarter of what it finds anywhere. Row `i` of the transition matrix `T` says
# where the photos of class `i` end up.

# %%
CLASSES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
looks_alike = torch.eye(10, dtype=torch.float64)
for a, b in [(1, 7), (3, 8), (4, 9)]:
    looks_alike[a, [a, b]] = looks_alike[b, [b, a]] = torch.tensor([0.7, 0.3], dtype=torch.float64)
true_matrix = 0.75 * looks_alike + 0.25 / 10

digits = load_digits()
is_test = np.random.default_rng(0).permutation(len(digits.target)) < 400
given = np.where(is_test, digits.target, corrupt_labels(digits.target, true_matrix, seed=0))
print(f"{(~is_test).sum()} training photos, {(given != digits.target)[~is_test].mean():.1%} of their labels are wrong")

# %% [markdown]
# They become files in a folder for each *given* label, and a table beside them. The column `true_label` is what you
# would not have: here it only measures how well all goes. The test photos carry checked labels.

# %%
paths = [f"photos/{CLASSES[label]}/{number:04}.png" for number, label in enumerate(given)]
for path, pixels in zip(paths, digits.images, strict=True):
    (RUN / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((32, 32)).save(RUN / path)
columns = {
    "path": paths,
    "label": [CLASSES[label] for label in given],
    "true_label": [CLASSES[label] for label in digits.target],
    "split": ["test" if test else "train" for test in is_test],
}
pyarrow.csv.write_csv(pa.table(columns), RUN / "photos.csv")

data_options = {
    "clean_label_column": "true_label",
    "class_names": CLASSES,
    "clean_splits": ["test"],
    "augmentation": {"no_aug": True},  # a mirrored digit is another one
    "num_workers": 0,
}
data = NoisyImageDataModule(str(RUN / "photos.csv"), **data_options)

# %% [markdown]
# The first photos that were found for "seven". How many of them are sevens?


# %%
def show(photos, titles, columns=10):
    rows = -(-len(photos) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns, 1.3 * rows), layout="constrained", squeeze=False)
    for place, axis in enumerate(axes.flat):
        axis.axis("off")
        if place < len(photos):
            axis.imshow(Image.open(photos[place]), cmap="gray_r")
            axis.set_title(titles[place], fontsize=8)
    return figure


sevens = [RUN / path for path, test in zip(paths, is_test, strict=True) if "/seven/" in path and not test][:20]
figure = show(sevens, [""] * 20)
figure.savefig(RUN / "found_for_seven.png", dpi=120)
figure

# %% [markdown]
# On the command line `lightning-noisy init photos/` looks at your own photos and writes a recipe for them, and each
# `lightning-noisy fit` begins with such a look: classes, counts, broken files, names that differ by case alone.

# %% [markdown]
# ## 2. Train both ways
#
# The same small network, the same photos, the same twelve epochs: once with plain cross-entropy (`noise=None`), once
# through the noise layer (`NoiseConfig()`, the default, with nothing to tune).


# %%
def train(name, data, noise):
    L.seed_everything(0, verbose=False)
    model = NoisyImageClassifier(
        "timm:test_resnet",  # yours: "timm:resnet50.a1_in1k", pretrained
        data.num_classes,
        data.class_names,
        noise=noise,
        pretrained=False,
        image_size=32,
        optimizer=functools.partial(torch.optim.AdamW, lr=2e-3),
    )
    trainer = L.Trainer(
        max_epochs=12,
        accelerator="cpu",
        logger=NoisyCSVLogger(RUN / name, name="", version=""),
        log_every_n_steps=20,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(RUN / name / "last.ckpt")
    return model, trainer


def test_accuracy(trainer, model):
    return trainer.test(model, test_data, verbose=False)[0]["test/accuracy_clean"]


test_data = NoisyImageDataModule(str(RUN / "photos.csv"), **data_options)
plain, plain_trainer = train("cross_entropy", data, None)
noisy, noisy_trainer = train("noise_layer", data, NoiseConfig())
accuracies = {
    "cross-entropy": test_accuracy(plain_trainer, plain),
    "noise layer": test_accuracy(noisy_trainer, noisy),
}
for name, accuracy in accuracies.items():
    print(f"{name:15} {accuracy:.1%} of the test photos right")

# %% [markdown]
# What happened? The first panel shows the accuracy on held-out photos against their true (*clean*) labels, which you
# would not see, the second against the given (*noisy*) ones, which you would. Cross-entropy learns the wrong labels
# by heart, and gets worse while it does. The noise layer waits until the network knows enough (its share of the
# loss, dotted, is zero until then), takes over, and keeps what was learned.


# %%
def curve(name, metric):
    rows = pyarrow.csv.read_csv(RUN / name / "metrics.csv").select(["epoch", metric]).to_pylist()  # epochs from 0 on
    return zip(*[(row["epoch"] + 1, row[metric]) for row in rows if row[metric] is not None], strict=True)


figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
for axis, labels in zip(axes, ["clean", "noisy"], strict=True):
    for name, colour in [("cross_entropy", "#D55E00"), ("noise_layer", "#0072B2")]:
        axis.plot(*curve(name, f"val/accuracy_{labels}"), color=colour, marker="o", label=name.replace("_", " "))
    axis.plot(*curve("noise_layer", "noise/share"), color="#0072B2", linestyle=":", label="the layer's share")
    axis.set(xlabel="epoch", title=f"held-out photos, {labels} labels", ylim=(0, 1.02))
axes[0].set_ylabel("accuracy")
axes[0].legend(loc="lower right", fontsize=8)
figure.savefig(RUN / "curves.png", dpi=120)
figure

# %% [markdown]
# ## 3. See the noise
#
# In each epoch it is counted how often a photo that the network takes for class `i` carries the label `j`. The counts
# of the last epoch, as shares, are the estimate of `T`: the search engine's habits, found without a single checked
# label.

# %%
counted = counts_to_shares(noisy.epoch_counts.latest.label_counts)
matrices = {"estimated": counted, "true": true_matrix}
figure = transition_matrices_figure(matrices, CLASSES, "Which labels the photos carry")
figure.savefig(RUN / "transition_matrix.png")
figure

# %% [markdown]
# ## 4. Look at the errors
#
# The audit asks the network how probable each given label is, and which class is the more probable one. On the command
# line: `lightning-noisy audit --ckpt_path runs/tutorial/noise_layer/last.ckpt --output audit/`.

# %%
looker = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
audit = audit_labels(noisy, data, RUN / "audit", trainer=looker)
errors = audit.summary.errors
print(f"estimated share of wrong labels: {errors.value:.1%} (between {errors.low:.1%} and {errors.high:.1%})")
print(f"flagged: {audit.summary.issues} of {audit.summary.images} photos")

# %% [markdown]
# The most suspicious photos first, the given label above the suggested one:

# %%
worst = audit.first_rows(20)
titles = [f"{row['given_class']}\n→ {row['suggested_class']}" for row in worst]
figure = show([row["path"] for row in worst], titles)
figure.savefig(RUN / "worst.png", dpi=120)
figure

# %% [markdown]
# We know the truth here, so the audit can be judged: how many of the flagged labels are wrong, how many of the wrong
# labels are flagged, how many suggestions are right?

# %%
truth = dict(zip(paths, columns["true_label"], strict=True))
table = audit.table.to_pylist()
is_wrong = np.array([truth[row["id"]] != row["given_class"] for row in table])
is_flagged = np.array([row["is_issue"] for row in table])
is_right_suggestion = np.array([truth[row["id"]] == row["suggested_class"] for row in table])
precision, recall = is_wrong[is_flagged].mean(), is_flagged[is_wrong].mean()
print(f"of the flagged labels {precision:.1%} are wrong, of the wrong ones {recall:.1%} are flagged")
print(f"of the suggestions {is_right_suggestion[is_flagged].mean():.1%} are the true class")

# %% [markdown]
# `lightning-noisy audit` also leaves `report.html`, the page for people: every suspicious photo, its label and the
# suggestion, decided with one key each. What it saves as `decisions.json` is what `apply` takes.
#
# ## 5. Correct them, and train again
#
# `apply` writes a table with cleaned labels and touches none of your files. The policy `relabel` takes the suggestion
# where it is the more probable label; `drop` leaves flagged photos out, `weight` keeps all and trusts each by its
# probability. Duplicates are left alone here (`kinds`), since small digits do look alike.

# %%
report = audit.apply("relabel", RUN / "cleaned.parquet", kinds=["label_issue"])
cleaned = pyarrow.parquet.read_table(RUN / "cleaned.parquet").to_pylist()
left = np.mean([truth[row["id"]] != CLASSES[row["label"]] for row in cleaned])
print(f"{report.relabelled} photos have another label now")
print(f"{is_wrong.mean():.1%} of the labels were wrong, {left:.1%} still are")

# %%
options = {name: value for name, value in data_options.items() if name not in ("clean_label_column", "clean_splits")}
again, again_trainer = train("again", NoisyImageDataModule(str(RUN / "cleaned.parquet"), **options), NoiseConfig())
accuracies["again, on cleaned labels"] = test_accuracy(again_trainer, again)
for name, accuracy in accuracies.items():
    print(f"{name:25} {accuracy:.1%}")

# %% [markdown]
# ## 6. Export
#
# What is left is a clean model: the noise layer is gone, and plain timm loads the folder without this package.
# `lightning-noisy push --ckpt_path runs/tutorial/clean_model --repo_id me/digits --license apache-2.0 --dry_run` shows
# what a push to the Hub would send.

# %%
folder = export_clean(again, RUN / "clean_model", license="apache-2.0", overwrite=True)
for path in sorted(folder.iterdir()):
    print(f"{path.stat().st_size:>9,} {path.name}")

# %%
model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
photo = RUN / paths[int(np.flatnonzero(is_test)[0])]
with torch.no_grad():
    probabilities = model(transform(Image.open(photo).convert("RGB"))[None]).softmax(dim=1)[0]
name, probability = CLASSES[int(probabilities.argmax())], float(probabilities.max())
print(f"{photo.parent.name}: the model says {name} ({probability:.0%})")

# %% [markdown]
# ## Where to go from here
#
# - The same with your own photos and on the command line: [From a folder to the Hub](your_photos.md).
# - What to take when: [How to choose](choosing.md).
# - How an audit judges labels, and how good that is: [the audit](audit.md).
