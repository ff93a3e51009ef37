#include "tap.h"
void test_partition(void) {}
