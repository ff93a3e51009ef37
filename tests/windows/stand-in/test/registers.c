#include "tap.h"
void test_registers(void) {}
