"""One module per family of methods: build() wires networks, maths and optimiser into a Method."""
