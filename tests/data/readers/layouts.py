"""Tiny copies of published data sets, laid out as their publishers do."""

from ...photos import draw_image

FOODS = ["apple_pie", "waffles", "sushi"]
CLOTHES = ["T-Shirt", "Shirt", "Down Coat"]


def save(root, path, label, seed=0):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    draw_image(label, seed).save(root / path)


def write_lines(root, name, lines):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def clothing1m(root, each=4):
    """``each`` noisy images of each class, the first of each with a clean label, too; one of them was wrong."""
    noisy = {f"images/{label}/{seed:02}/12,{seed}.jpg": label for label in range(3) for seed in range(each)}
    clean = {f"images/{label}/00/12,0.jpg": label for label in range(3)} | {"images/0/00/12,0.jpg": 2}
    write_lines(root, "category_names_eng.txt", CLOTHES)
    write_lines(root, "noisy_train_key_list.txt", noisy)
    for part in ("train", "val", "test"):
        keys = {f"images/{label}/99/{part},7.jpg": label for label in range(3)}
        write_lines(root, f"clean_{part}_key_list.txt", keys)
        clean |= keys
    # Some validation images have a noisy label beside the clean one.
    noisy_labels = noisy | {"images/0/99/val,7.jpg": 1}
    for name, labels in (("noisy", noisy_labels), ("clean", clean)):
        write_lines(root, f"{name}_label_kv.txt", [f"{key} {label}" for key, label in labels.items()])
    for key, label in {**noisy, **clean}.items():
        save(root, key, label, seed=len(key))
    return root


def food101n(root, each=5):
    """In each class, one image is verified as right and one as wrong for training, and one and one for validation."""
    keys = [f"{food}/{number:04x}.jpg" for food in FOODS for number in range(each)]
    write_lines(root, "meta/classes.txt", ["class_name", *FOODS])
    write_lines(root, "meta/imagelist.tsv", ["class_name/key", *keys])
    for part, first in (("train", 0), ("val", 2)):
        verified = [f"{food}/{first + wrong:04x}.jpg\t{1 - wrong}" for food in FOODS for wrong in (0, 1)]
        elsewhere = ["sushi/ffff.jpg\t1"]  # stands under another class in the list of images
        write_lines(root, f"meta/verified_{part}.tsv", ["class_name/key\tverification_label", *verified, *elsewhere])
    for key in keys:
        save(root, f"images/{key}", FOODS.index(key.partition("/")[0]), seed=len(key))
    return root


def food101(root):
    """Two images for training and one for the test in each class."""
    write_lines(root, "meta/classes.txt", FOODS)
    write_lines(root, "meta/train.txt", [f"{food}/{number}" for food in FOODS for number in (1, 2)])
    write_lines(root, "meta/test.txt", [f"{food}/3" for food in FOODS])
    for label, food in enumerate(FOODS):
        for number in (1, 2, 3):
            save(root, f"images/{food}/{number}.jpg", label, number)
    return root


def webvision(root, num_classes=3, each=2):
    """``each`` images of each class from Google and one from Flickr; two classes are called crane."""
    names = ["tench, Tinca tinca", "crane", "crane", *(f"thing {label}" for label in range(3, num_classes))]
    write_lines(root, "info/synsets.txt", [f"n{label:08} {name}" for label, name in enumerate(names)])
    lists = {
        "train_filelist_google": {
            f"google/q{label:04}/{n}.jpg": label for label in range(num_classes) for n in range(each)
        },
        "train_filelist_flickr": {f"flickr/q{label:04}/0.jpg": label for label in range(num_classes)},
        "val_filelist": {f"val{label:06}.jpg": label for label in range(num_classes)},
    }
    for name, labels in lists.items():
        write_lines(root, f"info/{name}.txt", [f"{key} {label}" for key, label in labels.items()])
        for key, label in labels.items():
            save(root, f"val_images_256/{key}" if name == "val_filelist" else key, label, label)
    return root


def animal10n(root, each=2):
    """``each`` images of each animal for training, one for the test."""
    for label in range(10):
        for seed in range(each):
            save(root, f"training/{label}_{100 * label + seed}.jpg", label, seed)
        save(root, f"testing/{label}_9.jpg", label, 9)
    return root
