"""The TVM backend: Relax modules from plait IR, schedules, and compiled executables."""
