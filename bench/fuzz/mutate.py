"""Change a checkpoint at random: its JSON by what stands in it, its tensors by shape, dtype and value, or its bytes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from fxquant.checkpoint import container, scalars
from fxquant.checkpoint.tensors import digest
from fxquant.dialect import functions

BYTES = 0.03  # of all files: damaged in their bytes, not in what these say
NUMBERS: tuple[Any, ...] = (
    *(
        -1,
        0,
        1,
        2,
        3,
        7,
        16,
        127,
        128,
        255,
        256,
        1000,
        65537,
        2**31 - 1,
        2**31,
        2**32,
        2**53,
        2**63 - 1,
        2**63,
        -(2**63),
    ),
    *(0.0, -0.5, 1e-45, 1e30, -1e300, {"float": "nan"}, {"float": "inf"}, 0.5, 1.0),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "none", "tanh", "x", {"tuple": []}, {"list": []}, {"slice": [None, None, -1]}),
    *(
        {"ellipsis": True},
        {"dtype": "float64"},
        {"dtype": "int8"},
        {"dtype": "bool"},
        {"device": "cuda:0"},
        {"device": "meta"},
    ),
    *({"tuple": [1, 2, 3]}, {"size": [2**40]}, {"complex": [1.0, 2.0]}, {"list": [0, 0]}),
)
_FILLED = (0.0, -1.0, 1e30, float("nan"), float("inf"), -float("inf"), 1e-45, 300.0)


def read_parts(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Return the JSON and the tensors of a checkpoint, unchecked."""
    with safe_open(path, framework="pt") as file:
        text = file.metadata()["fxquant_graph"]
        return json.loads(text), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def write_mutant(seed: Path, target: Path, rng: random.Random) -> list[str]:
    """Write `seed`, changed in one to four places, to `target`, and return what was changed."""
    if rng.random() < BYTES:
        return [_damage(seed, target, rng)]
    contents, tensors = read_parts(seed)
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        change = rng.choice(CHANGES)
        try:
            contents = change(contents, tensors, rng) or contents
            done.append(change.__name__)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError):
            continue  # there is nothing of the kind left to change
    _sign(contents, tensors)
    container.write(str(target), contents, {key: value.contiguous().clone() for key, value in tensors.items()})
    return done


def _damage(seed: Path, target: Path, rng: random.Random) -> str:
    data = bytearray(seed.read_bytes())
    if rng.random() < 0.3:
        data = data[: rng.randrange(len(data))]
    for _ in range(rng.choice((1, 1, 8, 64))):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    target.write_bytes(data)
    return "bytes"


def _sign(contents: Any, tensors: dict[str, Tensor]) -> None:
    """Write the right checksum of each tensor, which the container does for the JSON."""
    known = contents.get("tensors") if isinstance(contents, dict) else None
    for key, tensor in tensors.items():
        if isinstance(known, dict) and isinstance(known.get(key), dict):
            known[key]["sha256"] = digest(tensor.contiguous())


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container within JSON and each key or index in it."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield data, key
        yield from _places(value)


def _node(contents: Any, rng: random.Random) -> Any:
    return rng.choice(contents["nodes"])


def _argument(contents: Any, rng: random.Random) -> tuple[Any, Any]:
    """Return a place within the arguments of some node."""
    for _ in range(20):
        node = _node(contents, rng)
        places = [*_places(node["args"]), *_places(node.get("kwargs", {}))]
        if places:
            return rng.choice(places)
    raise IndexError


def change_number(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Change a number among the arguments of a node."""
    for _ in range(20):
        node = _node(contents, rng)
        places = [*_places(node["args"]), *_places(node.get("kwargs", {}))]
        numbers = [(owner, key) for owner, key in places if type(owner[key]) in (int, float)]
        if numbers:
            owner, key = rng.choice(numbers)
            near = [owner[key] + 1, owner[key] - 1, owner[key] * 2, -owner[key]]
            owner[key] = rng.choice([*near, *rng.sample(NUMBERS, 4)])
            return
    raise IndexError


def change_argument(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Put another value in the place of an argument."""
    owner, key = _argument(contents, rng)
    owner[key] = rng.choice((*VALUES, *NUMBERS))


def change_operand(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Let a node read another node in the place of an argument."""
    owner, key = _argument(contents, rng)
    owner[key] = {"node": _node(contents, rng)["name"]}


def copy_argument(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Put an argument of one node into another."""
    (owner, key), (other, place) = _argument(contents, rng), _argument(contents, rng)
    owner[key] = json.loads(json.dumps(other[place]))


def delete_argument(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Leave an argument out."""
    owner, key = _argument(contents, rng)
    del owner[key]


def swap_arguments(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Swap two arguments of one node."""
    args = _node(contents, rng)["args"]
    i, j = rng.sample(range(len(args)), 2)
    args[i], args[j] = args[j], args[i]


def change_operator(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Let a node call another operator."""
    calls = [node for node in contents["nodes"] if node["op"] in ("call_function", "call_method")]
    node = rng.choice(calls)
    if rng.random() < 0.3:
        node["target"] = rng.choice([other["target"] for other in calls])
    elif node["op"] == "call_method":
        node["target"] = rng.choice(_methods())
    else:
        node["target"] = rng.choice(_functions())


def insert_call(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Insert a call of a random operator, on a node and random arguments, and let a later node read it."""
    nodes = contents["nodes"]
    place = rng.randrange(1, len(nodes) - 1)
    source, name = nodes[rng.randrange(place)]["name"], f"inserted_{rng.randrange(10**6)}"
    method = rng.random() < 0.4
    more = [rng.choice((*NUMBERS, *VALUES, {"node": source})) for _ in range(rng.choice((0, 0, 1, 1, 2, 3)))]
    target = rng.choice(_methods() if method else _functions())
    op = "call_method" if method else "call_function"
    nodes.insert(place, {"name": name, "op": op, "target": target, "args": [{"node": source}, *more]})
    for later in nodes[place + 1 :]:
        readers = [(o, k) for o, k in _places(later["args"]) if k == "node" and o[k] == source]
        if readers:
            readers[0][0]["node"] = name
            return


def delete_node(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Delete a node, and let what read it read its first operand."""
    nodes = contents["nodes"]
    node = nodes.pop(rng.randrange(1, len(nodes) - 1))
    read = next((o["node"] for o, k in _places(node["args"]) if k == "node"), nodes[0]["name"])
    for other in nodes:
        for owner, key in list(_places(other["args"])):
            if key == "node" and owner[key] == node["name"]:
                owner[key] = read


def swap_nodes(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Swap two nodes, or what two nodes call."""
    nodes = contents["nodes"]
    i, j = rng.sample(range(len(nodes)), 2)
    if rng.random() < 0.3:
        nodes[i], nodes[j] = nodes[j], nodes[i]
    else:
        nodes[i]["target"], nodes[j]["target"] = nodes[j]["target"], nodes[i]["target"]


def duplicate_node(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Repeat a node many times in a chain, under new names."""
    nodes = contents["nodes"]
    place = rng.randrange(1, len(nodes) - 1)
    before = nodes[place]["name"]
    for number in range(rng.choice((1, 1, 2, 8, 40))):
        other = json.loads(json.dumps(nodes[place])) | {"name": f"copy_{number}_{rng.randrange(10**6)}"}
        readers = [o for o, k in _places(other["args"]) if k == "node"]
        if readers:
            rng.choice(readers)["node"] = before
        before = other["name"]
        nodes.insert(place + number + 1, other)
    for later in nodes:
        for owner, key in list(_places(later["args"])):
            if key == "node" and owner[key] == nodes[place]["name"] and not later["name"].startswith("copy_"):
                owner[key] = before


def change_anything(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Change, delete or copy any entry of the JSON but the nodes' arguments."""
    part = rng.choice([key for key in contents if contents[key]])
    places = list(_places({part: contents[part]}))
    owner, key = rng.choice(places)
    owner = contents if owner == {part: contents[part]} else owner
    kind = rng.randrange(4)
    if kind == 0:
        del owner[key]
    elif kind == 1:
        other, place = rng.choice(places)
        owner[key] = json.loads(json.dumps(other[place]))
    else:
        owner[key] = rng.choice((*NUMBERS, *VALUES, [], {}))


def change_value(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Change or drop what is known of a node's value, or of the module that it calls."""
    node = rng.choice([node for node in contents["nodes"] if "val" in node])
    if rng.random() < 0.2:
        del node["val"]
        return
    places = [(o, k) for o, k in _places({"val": node["val"]}) if k != "val"]
    owner, key = rng.choice(places)
    owner[key] = rng.choice((*NUMBERS, *scalars.DTYPES))


def change_record(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Change a field of a record, or of a module."""
    found = [node["record"] for node in contents["nodes"] if "record" in node] + contents["modules"]
    owner, key = rng.choice(list(_places(rng.choice(found))))
    owner[key] = rng.choice((*NUMBERS, *VALUES))


def change_shape(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Give a tensor another shape, and say so."""
    key = _key(contents, tensors, rng)
    value = tensors[key]
    rows = value.reshape(1) if value.dim() == 0 else value
    shapes: list[Callable[[], Tensor]] = [
        lambda: rows[:0],
        lambda: rows[:1],
        lambda: rows[:-1],
        lambda: torch.cat([rows, rows]),
        lambda: torch.cat([rows] * max(2, 4096 // max(1, rows.numel()))),
        lambda: rows.flatten(),
        lambda: rows[None],
        lambda: rows[..., None],
        lambda: rows.flatten()[0],
        lambda: rows.flatten()[:1],
        lambda: rows.transpose(0, -1),
        lambda: rows[..., :-1],
        lambda: torch.cat([rows, rows], -1),
    ]
    _put(contents, tensors, key, rng.choice(shapes)())


def change_dtype(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Give a tensor another dtype, and say so."""
    key = _key(contents, tensors, rng)
    _put(contents, tensors, key, tensors[key].to(rng.choice(list(scalars.DTYPES.values())[:10])))


def change_values(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Change one or all values of a tensor."""
    key = _key(contents, tensors, rng)
    value = tensors[key].clone()
    flat = value.view(-1)
    chosen = slice(None) if rng.random() < 0.5 else rng.randrange(max(1, flat.numel()))
    if value.is_floating_point():
        flat[chosen] = rng.choice(_FILLED)
    else:
        flat[chosen] = rng.choice((0, 1, -1, 127, -128, torch.iinfo(value.dtype).max, torch.iinfo(value.dtype).min))
    _put(contents, tensors, key, value)


def swap_tensors(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Let two names, or two nodes, read each other's tensor."""
    first, second = rng.sample(contents["slots"], 2)
    first["tensor"], second["tensor"] = second["tensor"], first["tensor"]


def nest_powers(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> None:
    """Insert a chain of sizes raised to powers, and let an argument read it."""
    nodes = contents["nodes"]
    place = rng.randrange(1, len(nodes) - 1)
    source = nodes[0]["name"]
    chain = [{"name": "grown_0", "op": "call_method", "target": "size", "args": [{"node": source}, 0]}]
    function = rng.choice(("operator.pow", "operator.lshift", "operator.mul", "operator.add", "builtins.pow"))
    for number in range(1, rng.choice((2, 3, 70))):
        more = rng.choice((2, 63, 2147483648, {"node": f"grown_{number - 1}"}))
        args = [{"node": f"grown_{number - 1}"}, more]
        chain.append({"name": f"grown_{number}", "op": "call_function", "target": function, "args": args})
    nodes[place:place] = chain
    places = [p for node in nodes[place + len(chain) :] for p in _places(node["args"])]
    owner, key = rng.choice(places)
    owner[key] = {"node": chain[-1]["name"]}


def _key(contents: Any, tensors: dict[str, Tensor], rng: random.Random) -> str:
    """Return the name of a tensor; small ones, which scale and shift others, as often as all together."""
    small = [key for key, value in tensors.items() if value.numel() < 256]
    return rng.choice(small if small and rng.random() < 0.5 else list(tensors))


def _put(contents: Any, tensors: dict[str, Tensor], key: str, value: Tensor) -> None:
    tensors[key] = value.contiguous().clone()
    contents["tensors"][key] = {"shape": list(value.shape), "dtype": scalars.dtype_name(value.dtype)}


@cache
def _functions() -> list[str]:
    aten = [name for name in dir(torch.ops.aten) if not name.startswith("_")]
    overloads = [f"aten.{name}.{o}" for name in aten for o in getattr(torch.ops.aten, name).overloads()]
    return [*functions.functions(), *functions.functions(), *sorted(overloads)]


@cache
def _methods() -> list[str]:
    return [name for name in sorted(dir(Tensor)) if functions.method_refusal(name) is None]


CHANGES: tuple[Callable[[Any, dict[str, Tensor], random.Random], None], ...] = (
    *(change_number, change_number, change_argument, change_operand, copy_argument, delete_argument, swap_arguments),
    *(change_operator, change_operator, insert_call, insert_call, delete_node, swap_nodes, duplicate_node),
    *(change_anything, change_value, change_record, change_shape, change_shape, change_shape, change_dtype),
    *(change_values, change_values, swap_tensors, nest_powers),
)
