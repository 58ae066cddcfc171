"""Heart disease from 13 findings, trained by hospitals together; Keras. Carried out by `run-task.yaml`.

DATA_DIR has this hospital's rows, TRAIN.csv and TEST.csv, which never leave it; MODEL_DIR gets the swarm's model.
"""

import csv
import os
from pathlib import Path

import keras
import numpy as np

from swarmlearning.tf import SwarmCallback

RANGES = {
    "age": (20, 80),
    "trestbps": (80, 200),
    "chol": (100, 500),
    "thalch": (60, 200),
    "oldpeak": (-3, 6),
    "ca": (0, 3),
}
CATEGORIES = {
    "sex": ["Male"],
    "cp": ["typical angina", "atypical angina", "non-anginal"],
    "fbs": ["TRUE"],
    "restecg": ["lv hypertrophy", "st-t abnormality"],
    "exang": ["TRUE"],
    "slope": ["upsloping", "flat"],
    "thal": ["fixed defect", "reversable defect"],
}


def encode(row: dict[str, str]) -> list[float]:
    """A patient as numbers, scaled by ranges that all hospitals use; what is missing lies in the middle."""
    scaled = []
    for name, (low, high) in RANGES.items():
        missing = row[name] == "" or (name in ("chol", "trestbps") and float(row[name]) == 0)
        scaled.append(0.5 if missing else (float(row[name]) - low) / (high - low))
    return scaled + [float(row[name] == value) for name, values in CATEGORIES.items() for value in values]


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (rows, 18), float32, and who is sick (rows, 1)."""
    with (Path(os.environ["DATA_DIR"]) / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    inputs = np.array([encode(row) for row in rows], dtype="float32")
    return inputs, np.array([[float(row["num"]) > 0] for row in rows], dtype="float32")


x, y = load("TRAIN.csv")
watched = load("TEST.csv")
epochs = int(os.environ.get("MAX_EPOCHS", "16"))

model = keras.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(16, "relu"), keras.layers.Dense(1, "sigmoid")])
model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
swarm = SwarmCallback(
    syncFrequency=8,
    minPeers=int(os.environ["MIN_PEERS"]),
    adsValData=watched,
    totalEpochs=epochs,
)
model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=[swarm])

loss, accuracy = model.evaluate(*watched, verbose=0)
print(f"{len(x)} rows trained on, {len(watched[0])} kept back: loss {loss:.3f}, accuracy {accuracy:.3f}")
model.save(Path(os.environ["MODEL_DIR"]) / f"heart-{os.environ['NODE_ID']}.keras")
print("final swarm model", swarm.final_sha256)
