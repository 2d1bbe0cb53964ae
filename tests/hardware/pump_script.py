"""What ``recordings/pump.jsonl`` is a recording of; `lab` is given by ``bellbench record``."""

# ruff: noqa: F821 - given from outside
from bellbench import Lab

lab: Lab

lab.pump.current.set(0.08)
lab.clock.sleep(0.1)
measured = lab.pump.measured_current.get()
lab.paddles.actuators[0].set(80.0)
while not lab.paddles.ready():
    lab.clock.sleep(0.1)
angle = lab.paddles.actuators[0].get()
