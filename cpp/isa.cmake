# The only list of instruction sets. A kernel file x86_<isa>.cpp is compiled with LOWBIT_FLAGS_<isa>; everything else with the
# architecture's baseline. To add an ISA: one line here, one enumerator in base/cpu.h, one row in each kernel table.
set(LOWBIT_FLAGS_avx2 -mavx2 -mfma)
set(LOWBIT_FLAGS_avxvnni -mavx2 -mfma -mavxvnni)
set(LOWBIT_FLAGS_avx512vnni -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni)

if(CMAKE_SIZEOF_VOID_P EQUAL 8 AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  add_compile_definitions(LOWBIT_HAVE_X86=1)
  foreach(source IN LISTS LOWBIT_SOURCES)
    if(source MATCHES "/x86_([a-z0-9]+)\\.cpp$")
      if(NOT DEFINED LOWBIT_FLAGS_${CMAKE_MATCH_1})
        message(FATAL_ERROR "${source}: cpp/isa.cmake has no flags for the instruction set ${CMAKE_MATCH_1}")
      endif()
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${LOWBIT_FLAGS_${CMAKE_MATCH_1}}")
    endif()
  endforeach()
else()
  list(FILTER LOWBIT_SOURCES EXCLUDE REGEX "/x86_[a-z0-9]+\\.cpp$")
endif()
