"""Threads that share one call: how they find together, meet at a step, and part.

Nothing here asks Python for anything.  Worker threads (``workers``) wait inside compiled code, looking at a *desk*, a
few words of memory that all of them see.  A call that wants help lays its job there and opens a door; who comes
through before it is closed is a member, and a job is shared by the members that came, be they few or none: a call
never waits for a thread that may not exist.  The door stays open for a short while only, since a worker that is awake
comes within a microsecond.

There is one job at a time.  A call that finds the desk taken (by another thread, by a call further out) works alone.

A *job* is the same kernel, called by each member with its number and the number of members: each does its part of the
rows or of the hidden units, and where one needs what another has made they ``meet``.

Two calls that don't depend on each other can be one job (``side_by_side``): each is *laid down* first, which is to note
all that it was given, and half of the members then run the one, half the other.
"""

from __future__ import annotations

import platform
import sys
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._kernel import kernel, part
from .emit import I64

#: Members of a team at most.
MOST = 64

#: Bytes from word to word: two cache lines, since processors fetch them in pairs.
LINE = 128

#: Words of the desk: whether it is taken; the door; how many may come in; where the job is, and what it is given; the
#: word to begin; how many workers are done; how many looks a worker waits for the next job at least; where the caller
#: runs, and whether that is told.  Then a flag for each member: how often it has met the others.
TAKEN, DOOR, WANTED, JOB, GIVEN, BEGIN, DONE, COMING, AT, TELLS, FLAGS = range(11)
WORDS = FLAGS + MOST

#: The door is ``number of the job << SHIFT | workers that came << 1 | open``; to begin, ``number << SHIFT | members``;
#: where the caller runs, ``number << SHIFT | processor + 1``.
SHIFT = 16

#: Looks at a word that another thread is about to change, before the processor is offered to others in between.
PATIENT = 4096


class Team(NamedTuple):
    """What a call may share its work with, and how."""

    desk: int  #: address
    wanted: int  #: members
    patience: int  #: looks at the door until it is closed
    abreast: int  #: members that share the hidden units of the same rows; the others have rows of their own


class Seat(NamedTuple):
    """A member's place in a job."""

    desk: int
    member: int
    members: int
    base: int  #: what the flags are counted from in this job


#: The seat of the caller, who is to find the others.
CALLER = Seat(0, 0, 0, 0)

#: Number of members of a call that is only to be laid down, at the address that its seat has instead of the desk's; and
#: the bytes there are for that.
LATER, RECORD = -1, 2048

#: A job as workers call it: with an address and a seat.
JOB_TYPE = ir.FunctionType(ir.VoidType(), [I64] * 5)


def _pointer(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I64.as_pointer())


@intrinsic
def nought(typingctx):
    """0, to count from: of a plain integer type, where Numba would compile what is given a literal 0 once more."""
    return types.int64(), lambda context, builder, signature, arguments: I64(0)


@intrinsic
def look(typingctx, address):
    """The word at an address; all that was written before it was put there can be seen from now on."""

    def emit(context, builder, signature, arguments):
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", 8, typ=I64)

    return types.int64(types.int64), emit


@intrinsic
def put(typingctx, address, word):
    """Put a word at an address, after all that was written before."""

    def emit(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), emit


@intrinsic
def change(typingctx, address, old, new):
    """Put ``new`` where ``old`` stands; whether it stood there."""

    def emit(context, builder, signature, arguments):
        result = builder.cmpxchg(_pointer(builder, arguments[0]), arguments[1], arguments[2], "acq_rel", "acquire")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), emit


@intrinsic
def add_one(typingctx, address):
    """Add 1 to the word at an address."""

    def emit(context, builder, signature, arguments):
        builder.atomic_rmw("add", _pointer(builder, arguments[0]), I64(1), "acq_rel")
        return context.get_dummy_value()

    return types.void(types.int64), emit


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, ir.FunctionType(result, [a.type for a in arguments]), name)
    return builder.call(function, arguments)


@intrinsic
def relax(typingctx):
    """Tell the processor that this thread is only waiting."""

    def emit(context, builder, signature, arguments):
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64"):
            _call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        elif machine in ("arm64", "aarch64"):
            _call(builder, "llvm.aarch64.hint", ir.VoidType(), [ir.IntType(32)(1)])
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def current_processor(typingctx):
    """The number of the processor that this thread runs on; -1 where that isn't told."""

    def emit(context, builder, signature, arguments):
        if sys.platform != "linux":
            return I64(-1)
        return builder.sext(_call(builder, "sched_getcpu", ir.IntType(32), []), I64)

    return types.int64(), emit


@kernel
def processor_here():
    """The same for callers from Python."""
    return current_processor()


@intrinsic
def give_way(typingctx):
    """Offer the processor to other threads."""

    def emit(context, builder, signature, arguments):
        _call(builder, "SwitchToThread" if sys.platform == "win32" else "sched_yield", ir.IntType(32), [])
        return context.get_dummy_value()

    return types.void(), emit


def _given(builder: Any) -> Any:
    """What a job hands on of a kernel's arguments: not a result, an exception, and a seat's four words."""
    return builder.function.args[6:]


def _record(builder: Any) -> Any:
    """The type of a note of that."""
    return ir.LiteralStructType([a.type for a in _given(builder)])


def _note(builder: Any, room: Any) -> None:
    """Note it."""
    for n, value in enumerate(_given(builder)):
        builder.store(value, builder.gep(room, [ir.IntType(32)(0), ir.IntType(32)(n)]))


def _job(builder: Any) -> Any:
    """A C function that calls the kernel being built once more, with the seat that it is given and what was noted."""
    kernel_function = builder.function
    name = f"{kernel_function.name}.job"
    job = builder.module.globals.get(name)
    if job is None:
        job = ir.Function(builder.module, JOB_TYPE, name)
        job.linkage = "internal"
        inside = ir.IRBuilder(job.append_basic_block())
        values = inside.load(inside.inttoptr(job.args[0], _record(builder).as_pointer()))
        result, error = (inside.alloca(a.type.pointee) for a in kernel_function.args[:2])
        handed = [inside.extract_value(values, n) for n in range(len(_given(builder)))]
        inside.call(kernel_function, [result, error, *job.args[1:], *handed])
        inside.ret_void()
    return builder.ptrtoint(job, I64)


@intrinsic
def offer(typingctx):
    """(address of a C function, address of what it wants): it calls the kernel in which this stands once more, with the
    same arguments, except for the first: the ``Seat`` that the function is given.

    The second is good until the kernel returns.
    """

    def emit(context, builder, signature, arguments):
        with builder.goto_entry_block():
            room = builder.alloca(_record(builder))
        _note(builder, room)
        return context.make_tuple(builder, signature.return_type, [_job(builder), builder.ptrtoint(room, I64)])

    return types.UniTuple(types.int64, 2)(), emit


@intrinsic
def lay_down(typingctx, address):
    """Put the same function's address at an address, where there are ``RECORD`` bytes, and what it wants behind it.

    Arrays are noted, not kept: good for as long as their memory is.
    """

    def emit(context, builder, signature, arguments):
        record = _record(builder)
        if context.get_abi_sizeof(record) > RECORD - 8:
            raise ValueError(f"what {builder.function.name} is given takes more than {RECORD} bytes")
        builder.store(_job(builder), _pointer(builder, arguments[0]))
        behind = builder.add(arguments[0], I64(8))
        _note(builder, builder.inttoptr(behind, record.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64), emit


@intrinsic
def call_job(typingctx, job, given, seat):
    """Call what ``offer`` offered."""

    def emit(context, builder, signature, arguments):
        function = builder.inttoptr(arguments[0], JOB_TYPE.as_pointer())
        place = [builder.extract_value(arguments[2], n) for n in range(4)]
        builder.call(function, [arguments[1], *place])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, seat), emit


@part
def wait_a_little(looks):
    """After so many looks in vain: the number of looks."""
    relax()
    if looks > 0 and looks % PATIENT == 0:
        give_way()
    return looks + 1


@part
def assemble(team, offered):
    """Find members for a job: the caller's own seat, of as many as have come.

    Every ``assemble`` must be followed by ``part_ways``, with the caller's part of the job in between.
    """
    desk = team.desk
    if team.wanted <= 1 or not change(desk + TAKEN * LINE, 0, 1):
        return Seat(desk, 0, 1, 0)
    number = (look(desk + DOOR * LINE) >> SHIFT) + 1
    put(desk + WANTED * LINE, min(team.wanted, MOST))
    put(desk + JOB * LINE, offered[0])
    put(desk + GIVEN * LINE, offered[1])
    put(desk + DONE * LINE, 0)
    door = number << SHIFT | 1
    full = number << SHIFT | (min(team.wanted, MOST) - 1) << 1 | 1
    put(desk + DOOR * LINE, door)
    if look(desk + TELLS * LINE):
        put(desk + AT * LINE, number << SHIFT | current_processor() + 1)
    looks = nought()
    # Without giving way: if the machine is busy, each time could take milliseconds.
    while looks < team.patience and door != full:
        relax()
        looks += 1
        door = look(desk + DOOR * LINE)
    while not change(desk + DOOR * LINE, door, door - 1):
        door = look(desk + DOOR * LINE)
    came = door - (number << SHIFT) >> 1
    if came == 0:
        put(desk + TAKEN * LINE, 0)
    else:
        put(desk + BEGIN * LINE, number << SHIFT | came + 1)
    return Seat(desk, 0, came + 1, number << 24)


@part
def part_ways(seat):
    """The caller waits until all members are done."""
    if seat.member == 0 and seat.members > 1:
        looks = nought()
        while look(seat.desk + DONE * LINE) < seat.members - 1:
            looks = wait_a_little(looks)
        put(seat.desk + TAKEN * LINE, 0)


@kernel
def serve(desk, most):
    """Take part in jobs until so many looks in a row (more if a job is coming) found none: how many those were.

    -1 when there was one whose caller runs on the same processor: there it isn't done any sooner by two.
    """
    looks, served, seen = nought(), nought(), look(desk + AT * LINE)
    while looks < most or looks < look(desk + COMING * LINE):
        door = look(desk + DOOR * LINE)
        came = (door & (1 << SHIFT) - 1) >> 1
        if not (door & 1 and came + 1 < look(desk + WANTED * LINE) and change(desk + DOOR * LINE, door, door + 2)):
            looks = wait_a_little(looks)
            at = look(desk + AT * LINE)
            if at != seen and at & (1 << SHIFT) - 1 == current_processor() + 1 > 0:
                return -1
            seen = at
            continue
        number = door >> SHIFT
        looks = nought()
        while look(desk + BEGIN * LINE) >> SHIFT != number:
            looks = wait_a_little(looks)
        members = look(desk + BEGIN * LINE) & (1 << SHIFT) - 1
        call_job(look(desk + JOB * LINE), look(desk + GIVEN * LINE), Seat(desk, came + 1, members, number << 24))
        add_one(desk + DONE * LINE)
        looks = nought()
        served += 1
    return served


@kernel
def close(desk, most):
    """Take the desk for good, so that no job begins any more: as soon as it is free, within so many looks."""
    looks = nought()
    while looks < most and not change(desk + TAKEN * LINE, 0, 1):
        looks = wait_a_little(looks)


@kernel
def idle(desk, looks):
    """So many looks: to learn what one takes."""
    for _ in range(looks):
        look(desk)
        relax()


@part
def meet(seat, first, count, times):
    """Wait until the members [first, first + count) have all met so often as this one: ``times + 1``.

    All that each of them wrote before can be seen by the others after.
    """
    times += 1
    if count > 1:
        here = seat.base + times
        put(seat.desk + (FLAGS + seat.member) * LINE, here)
        for member in range(first, first + count):
            looks = nought()
            # The difference, since the count may pass the largest integer.
            while look(seat.desk + (FLAGS + member) * LINE) - here < 0:
                looks = wait_a_little(looks)
    return times


@part
def seats(seat, abreast):
    """(group, number of groups, place, number of places): as many members side by side as ``abreast`` says.

    Members that are left over are in a group past the last.
    """
    size = min(abreast, seat.members)
    return seat.member // size, seat.members // size, seat.member % size, size


@part
def share(n, part, parts):
    """[begin, end): the part of range(n) that falls to one of so many parts."""
    return n * part // parts, n * (part + 1) // parts


@kernel
def side_by_side(seat, team, first, second):
    """Run what has been laid down at two addresses: each by half of the members, or both by a single one.

    Neither may depend on the other.
    """
    called = seat.members == 0
    if called:
        seat = assemble(team, offer())
    for n in range(2):
        at = second if n == 1 else first
        begin, end = share(seat.members, n, 2)
        if seat.members == 1:
            begin, end = 0, 1
        if begin <= seat.member < end:
            # Flags are looked up from the desk, so each half has its own.
            half = Seat(seat.desk + begin * LINE, seat.member - begin, end - begin, seat.base)
            call_job(look(at), at + 8, half)
    if called:
        part_ways(seat)
