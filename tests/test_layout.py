"""The shape of the house: who may import whom, what stays light, how long a file is, what is never called."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data", "rewards", "curricula", "rl", "launch")
MAY_IMPORT = {
    "data": set(),
    "rewards": {"data"},
    "curricula": {"data"},
    "rl": {"data", "rewards", "curricula"},
    "launch": {"data", "rewards", "curricula", "rl"},
}
LIGHT = ("data", "rewards", "curricula", "rl.types", "rl.config", "rl.evaluate", "launch.cli")
HEAVY = ("torch", "vllm", "ray", "transformers", "trl", "datasets")
VLLM_FILES = {"rl/rollout/vllm_engine.py"}
RAY_FILES = {
    "rl/cluster.py", "rl/learner_group.py", "rl/ray_actors.py", "rl/ray_jobs.py", "rl/rollout_pool.py", "rl/scoring.py",
}  # fmt: skip
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
FORBIDDEN_NAMES = {"utils", "util", "common", "misc", "helpers", "helper", "manager"}

FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "breakpoint",
    "pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads", "marshal.loads",
    "joblib.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen",
    "parse_expr", "sympify", "sympy.sympify", "sympy.parse_expr", "pandas.read_pickle", "pd.read_pickle",
}  # fmt: skip


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_modules(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolute module an import statement anywhere in the file names, with its line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno}: relative import; write the whole name"
            assert node.module is not None
            yield node.module, node.lineno


def test_imports_follow_the_arrows() -> None:
    wrong = [
        f"{name(path)}:{line} imports {module}"
        for path in sources()
        for module, line in imported_modules(path)
        if (target := module.partition(".")[0]) in (*PACKAGES, "tests")
        and target != (home := path.relative_to(ROOT).parts[0])
        and target not in MAY_IMPORT[home]
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_engine_file_imports_vllm() -> None:
    assert importers_of("vllm") <= VLLM_FILES


def test_only_the_cluster_files_import_ray() -> None:
    assert importers_of("ray") <= RAY_FILES


def importers_of(package: str) -> set[str]:
    return {name(p) for p in sources() for module, _ in imported_modules(p) if module.partition(".")[0] == package}


def light_modules() -> list[str]:
    modules = []
    for path in sources():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if any(module == light or module.startswith(f"{light}.") for light in LIGHT):
            modules.append(module)
    return modules


def test_light_packages_pull_in_nothing_heavy() -> None:
    program = f"import sys\nfor name in {light_modules()!r}:\n    __import__(name)\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & set(HEAVY) == set()


def test_files_and_functions_fit_on_a_screen_or_few() -> None:
    long = []
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > MAX_FILE_LINES:
            long.append(f"{name(path)}: {lines} lines > {MAX_FILE_LINES}; split it by idea")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    long.append(f"{name(path)}:{node.lineno} {node.name}: {length} lines > {MAX_FUNCTION_LINES}")
    assert not long, "\n".join(long)


def test_no_module_is_named_after_nothing() -> None:
    named = [name(p) for p in sources() if {p.stem, *p.relative_to(ROOT).parts[:-1]} & FORBIDDEN_NAMES]
    based = [name(p) for p in sources() if p.stem.startswith("base_")]
    assert named + based == []


def test_every_folder_of_code_is_a_package_that_is_installed() -> None:
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(declared) == sorted({".".join(p.relative_to(ROOT).parent.parts) for p in sources()})
    assert [name(p) for p in sources() if not (p.parent / "__init__.py").exists()] == []


def readme_tree() -> set[str]:
    """Paths of the Python files in the README's file tree: a fenced block whose folders end in / and indent by two."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tree -->\s*```[a-z]*\n(.*?)```", text, re.DOTALL)
    assert block, "README.md: no fenced file tree after <!-- tree -->"
    folders: list[str] = []
    files = set()
    for line in block[1].splitlines():
        if not line.strip():
            continue
        depth, entry = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        del folders[depth:]
        if entry.endswith("/"):
            folders.append(entry)
        elif entry.endswith(".py"):
            files.add("".join(folders) + entry)
            assert len(line.split()) > 1, f"README.md: {entry} has no purpose beside it"
    return files


def test_the_readme_lists_every_file_and_no_other() -> None:
    present = {name(path) for path in sources() if path.name != "__init__.py"}
    listed = readme_tree()
    assert {"missing in README": sorted(present - listed), "no such file": sorted(listed - present)} == {
        "missing in README": [],
        "no such file": [],
    }


def test_the_readme_shows_the_loop_as_it_stands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- loop -->\s*```python\n(.*?)```", text, re.DOTALL)
    assert block, "README.md: no fenced loop after <!-- loop -->"
    assert block[1] in (ROOT / "rl" / "train.py").read_text(encoding="utf-8")


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def unsafe_calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Calls that run what they read: code, pickles, shells, a model repository's own Python."""
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        full = imported.get(called, called)
        arguments = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in FORBIDDEN_CALLS or full in FORBIDDEN_CALLS or full.endswith((".parse_expr", ".sympify")):
            yield node.lineno, called
        if full == "torch.load" and not is_true(arguments.get("weights_only", ast.Constant(value=False))):
            yield node.lineno, "torch.load without weights_only=True"
        for switch in ("shell", "trust_remote_code", "allow_pickle"):
            value = arguments.get(switch)
            if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                yield node.lineno, f"{called}({switch}=...)"


def test_nothing_runs_what_it_reads() -> None:
    found = [
        f"{name(path)}:{line} {call}"
        for path in sources()
        for line, call in unsafe_calls(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "import pickle\npickle.loads(b'')",
        "from pickle import load\nload(f)",
        "from sympy.parsing.sympy_parser import parse_expr as p\np('x')",
        "import sympy as sp\nsp.sympify('x')",
        "import yaml\nyaml.load(f)",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=flag)",
    ],
)
def test_the_search_for_unsafe_calls_finds_them(code: str) -> None:
    assert len(list(unsafe_calls(ast.parse(code)))) == 1


def test_the_search_for_unsafe_calls_leaves_safe_ones_alone() -> None:
    code = (
        "import torch, re\ntorch.load(f, weights_only=True)\nre.compile('x')\nmodel.eval()\nm(trust_remote_code=False)"
    )
    assert list(unsafe_calls(ast.parse(code))) == []


def test_no_handler_is_bare_or_broad_unless_it_cleans_up_and_raises_again() -> None:
    broad = {"Exception", "BaseException"}
    found = [
        f"{name(path)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or dotted(node.type) in broad)
        and not (isinstance(last := node.body[-1], ast.Raise) and last.exc is None)
    ]
    assert not found, "\n".join(found)
