#include "tap.h"
void test_state(void) {}
