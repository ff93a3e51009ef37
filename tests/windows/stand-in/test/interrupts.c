#include "tap.h"
void test_interrupts(void) {}
