"""How a method is compiled and laid over devices: mesh, pmap, lanes; what that costs in memory and operations."""
