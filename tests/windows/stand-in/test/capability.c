#include "tap.h"
void test_capability(void) {}
