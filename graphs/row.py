"""Our nodes, one behind the other, in the place of a loader."""

from __future__ import annotations

from dataclasses import dataclass, field

from .carriers import Windows
from .edges import carry
from .job import Job, Value
from .loops import loop_is_right
from .nodes import ALWAYS, BYPASSED
from .reach import Reach
from .workflow import Source
from .world import Level


@dataclass
class Module:
    """One motion module of a row."""

    level: Level
    node: str
    """The old node that says how it is applied."""
    name: Value
    load: Source | None = None
    """The output of a loader that stays as a node; else a loader is made."""
    groupnorm: str = "auto"
    values: dict[str, Value] = field(default_factory=dict)
    links: dict[str, Source | None] = field(default_factory=dict)


class Row:
    """A row that grows from the MODEL that the old node gets."""

    def __init__(self, job: Job, level: Level, node: str, mode: int) -> None:
        self.job, self.level, self.node, self.mode = job, level, node, mode
        self.kind = level.type(node)
        self.end = job.world.source(level, node, "model") if level.is_prompt else level.source(node, "model")
        """What the next one gets."""
        self.in_place = False
        """Whether one of the row has the old node's id."""
        self.loops: dict[tuple[int, str], Value] = {}
        """closed_loop of each stage, as settled."""
        self.complain = job.complain(level, node)
        self._shift = 0

    def add(
        self, kind: str, values: dict, links: dict, *, mode: int | None = None, feeds: bool = True
    ) -> str:
        """A further node; with ``feeds``, one of the row."""
        self._shift += 1
        if feeds:
            links = {**links, "model": self.end}
        new = self.level.add(
            kind,
            values,
            links,
            self.node,
            self.complain,
            mode=self.mode if mode is None else mode,
            shift=(-30 * self._shift, -160 * self._shift),
        )
        if feeds:
            self.end = (new, 0)
        return new

    def apply(self, module: Module, beta: str, *, in_place: bool) -> None:
        """Load and apply one motion module."""
        job, level = self.job, self.level
        links = self._carried(module)
        if "motion_module" not in links:
            links["motion_module"] = self._load(module)
        values = {"beta_schedule": beta}
        for name, value in module.values.items():
            value = self.local(value, module.level)
            values[name] = value.constant
            if value.link:
                links[f"{name}_values" if name in ("scale", "effect") else name] = value.link
        links["model"] = self.end
        kind = "FlipbookApplyMotionModule"
        if in_place:
            level.become(self.node, kind, values, links, self.complain, mode=self.mode)
            self.in_place = True
            self.end = (self.node, 0)
        elif module.level is level and not job.is_done(level, module.node):
            job.mark(level, module.node)
            complain = job.complain(level, module.node)
            level.become(module.node, kind, values, links, complain, mode=self.mode, outputs={})
            self.end = (module.node, 0)
        else:
            self.add(kind, values, links)

    def _load(self, module: Module) -> Source:
        name = self.local(module.name, module.level)
        load = self.add(
            "FlipbookLoadMotionModule",
            {"motion_module": name.constant, "groupnorm": module.groupnorm},
            {"motion_module": name.link},
            mode=ALWAYS if self.mode == BYPASSED else self.mode,
            feeds=False,
        )
        return load, 0

    def windows(self, stage: Windows, goal: Reach, num_frames: int | None = None) -> None:
        """One stage of context windows."""
        job, level = self.job, self.level
        values = {name: self.local(value, stage.level) for name, value in stage.values.items()}
        if values["closed_loop"].constant:
            length = values["length"].constant
            if values["length"].link:
                length = job.world.constant(level, values["length"].link)
            if not loop_is_right(job, goal, length, stage.on_equal_length, num_frames):
                values["closed_loop"] = Value(False)
                job.say(
                    "changed",
                    level,
                    self.node,
                    "closed_loop is off: there, a clip no longer than a window gets no windows and no loop.",
                    self.kind,
                )
        self.loops[id(stage.level), stage.node] = values["closed_loop"]
        constants = {name: value.constant for name, value in values.items()}
        links = {name: value.link for name, value in values.items() if value.link}
        mode = self.mode if stage.in_use else BYPASSED
        kind = stage.kind
        if stage.level is level and stage.node in level.nodes and level.type(stage.node) == kind:
            complain = job.complain(level, stage.node)
            links["model"] = self.end
            level.become(
                stage.node, "FlipbookContextWindows", constants, links, complain, outputs={}, mode=mode
            )
            self.end = (stage.node, 0)
            text = "Became Context Windows, behind the motion module."
            if not stage.in_use:
                text = "Was out of use: became Context Windows, bypassed."
            job.say("mapped", level, stage.node, text, kind)
        else:
            self.add("FlipbookContextWindows", constants, links, mode=mode)
            text = f"The context options #{stage.node} serve several: it has Context Windows of its own."
            job.say("changed", level, self.node, text, self.kind)

    def local(self, value: Value, level: Level) -> Value:
        """A value on the row's level, across the edges of subgraphs if need be."""
        if value.link is None or level is self.level:
            return value
        known = self.job.world.constant(level, value.link)
        if known is not None:
            return Value(known)
        link = carry(self.job.world, level, value.link, self.level)
        if link is None:
            text = f"A value is linked in another subgraph; taken: {value.constant!r}."
            self.job.say("lost", self.level, self.node, text, self.kind)
        return Value(value.constant, link)

    def _carried(self, module: Module) -> dict[str, Source]:
        """What is linked to a module's old node, on the row's level."""
        given = {**module.links, "motion_module": module.load}
        links = {}
        for name, source in given.items():
            if source is None:
                continue
            found = carry(self.job.world, module.level, source, self.level)
            if found is not None:
                links[name] = found
            elif name != "motion_module":
                text = f"Its {name} cannot follow out of a subgraph that is used more than once."
                self.job.say("lost", module.level, module.node, text)
        return links

    def finish(self) -> None:
        """Let the end of the row feed what the old node fed, and take the old node out."""
        level, old = self.level, (self.node, 0)
        if self.end is None:
            level.drop_consumers(old)
        elif self.end != old:
            level.redirect(old, self.end, but=self._members())
        if not self.in_place:
            level.remove(self.node)

    def _members(self) -> set[str]:
        """The nodes of the row, from its end upwards."""
        nodes: set[str] = set()
        source = self.end
        while source is not None and source[0] in self.level.nodes and source[0] not in nodes:
            nodes.add(source[0])
            if source[0] == self.node:
                break
            source = self.level.source(source[0], "model")
        return nodes
