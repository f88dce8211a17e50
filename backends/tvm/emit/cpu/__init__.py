"""CPU kernels written as loops: register tiles, transforms and rows at the vector width of the host."""
