"""Where the files of an export lie: `<artifact>/<format>/…`."""

from pathlib import Path

from posttrain.errors import PosttrainError

GGUF = "gguf-"  # how the names of llama.cpp's formats begin
DIRECTORIES = ("safetensors", "bnb-int8")  # formats that transformers loads
DEFAULT = "gguf-q8_0"


def exported_file(artifact: Path, file_format: str) -> Path:
    """The GGUF file, or the model directory, of one format in an export's artifact."""
    there = sorted(path.name for path in artifact.iterdir() if path.is_dir() and not path.name.startswith("."))
    folder = artifact / file_format
    if file_format not in there:
        raise PosttrainError(
            f"{artifact}: no format '{file_format}'; there is {', '.join(there) or 'none'}. "
            f"Choose one of these, or add {file_format} to the export step's 'formats' and run it."
        )
    if file_format.startswith(GGUF):
        found = sorted(folder.glob("*.gguf"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise PosttrainError(f"{folder}: GGUF files: {names}; exactly one is needed. Run the export again.")
        return found[0]
    if file_format not in DIRECTORIES:
        raise PosttrainError(
            f"{folder}: {file_format} has a runtime of its own; gguf-*, {' and '.join(DIRECTORIES)} can be talked to "
            "here. Choose one of these with --format."
        )
    if not (folder / "config.json").is_file():
        raise PosttrainError(f"{folder}: no config.json; a whole model directory is needed. Run the export again.")
    return folder
