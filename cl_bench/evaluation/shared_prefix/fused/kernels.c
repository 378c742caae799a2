/* All kernels of fused layers, in one library (compiled.py). */
#include "attention.h"
#include "layer.h"
