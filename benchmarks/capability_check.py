"""What a capability costs per question: decided before, decided anew, and asked for in the context.

    python benchmarks/capability_check.py [--rounds 5]

Prints microseconds, the best of the rounds.  The goal is half a microsecond for a decision that was made before, which
is what every call on a socket asks; the exit status is 1 when it is missed.
"""

import argparse
import sys
import timeit

from swos_net.address import parse_address
from swos_net.capability import Capability, Rule, current_capability
from swos_net.stack.stack import Stack

GOAL = 0.5  # microseconds
QUESTIONS = 50_000
HOST = parse_address("10.0.2.5")


def capability(rules: int, denials: int = 0) -> Capability:
    """One whose last rule allows what is asked."""
    others = [Rule.parse(f"tcp:connect:192.0.2.{number}:80") for number in range(rules - 1)]
    denied = [Rule.parse(f"tcp:connect:198.51.100.{number}:80") for number in range(denials)]
    return _stack.root.attenuate([*others, Rule.parse("tcp:connect:10.0.2.0/24:80,443")], deny=denied)


def microseconds(statement, number: int, rounds: int) -> float:
    return min(timeit.repeat(statement, number=number, repeat=rounds)) / number * 1e6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    one = capability(2)

    def cached():
        one.check("connect", "tcp", HOST, 80)

    empty = microseconds(lambda: None, QUESTIONS, rounds)
    asked = microseconds(cached, QUESTIONS, rounds) - empty
    print(f"decided before            {asked:8.3f} us (goal {GOAL})")
    for rules, denials in ((2, 0), (2, 2), (200, 0)):
        held = capability(rules, denials)
        anew = microseconds(lambda held=held: held._decide("connect", "tcp", HOST, 80), QUESTIONS // 100, rounds)
        print(f"decided anew, {rules:3d}+{denials:d} rules {anew:8.3f} us")
    with one.activate():
        print(f"active in the context     {microseconds(current_capability, QUESTIONS, rounds):8.3f} us")
    print(f"attenuated by one rule    {microseconds(lambda: one.attenuate('tcp:connect:10.0.2.0/25:80'), 2000, rounds):8.3f} us")
    return asked > GOAL


_stack = Stack()  # issues what is measured

if __name__ == "__main__":
    sys.exit(main())
