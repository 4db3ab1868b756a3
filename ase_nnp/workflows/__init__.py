"""Things to do with a calculator: relaxations and what follows from them."""
