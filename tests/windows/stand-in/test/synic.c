#include "tap.h"
void test_synic(void) {}
