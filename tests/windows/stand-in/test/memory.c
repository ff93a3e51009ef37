#include "tap.h"
void test_memory(void) {}
