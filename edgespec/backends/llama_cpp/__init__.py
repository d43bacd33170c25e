"""llama.cpp through llama-cpp-python's low-level module; owns every pointer."""
